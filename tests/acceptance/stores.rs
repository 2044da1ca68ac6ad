//! Either store, for tests of what must hold whichever counts.

use harness::{Gateway, GatewayBuilder, Recorder, Redis};

/// Where windows are kept while a test runs.
pub(crate) enum Store {
    Memory,
    Redis(Redis),
}

impl Store {
    pub(crate) fn gateway(&self, worker: &Recorder, policy: &str) -> GatewayBuilder {
        // Clients come through a proxy that is trusted, so that a test can have many addresses.
        let builder = Gateway::builder()
            .worker(worker)
            .policy("[client_address]\ntrusted_proxies = [\"127.0.0.1\"]\n")
            .policy(policy);
        match self {
            Self::Memory => builder,
            Self::Redis(redis) => builder.redis(redis),
        }
    }

    pub(crate) async fn start(&self, worker: &Recorder, policy: &str) -> Gateway {
        self.gateway(worker, policy).start().await
    }
}

/// Each function as a test on either store.
macro_rules! on_both_stores {
    ($($name:ident)*) => {
        mod memory {
            use crate::stores::Store;
            $(#[tokio::test] async fn $name() { super::$name(Store::Memory).await; })*
        }
        mod redis {
            use crate::stores::Store;
            $(#[tokio::test] async fn $name() { super::$name(Store::Redis(harness::Redis::start().await)).await; })*
        }
    };
}

pub(crate) use on_both_stores;
