//! Pools for operators: how their workers are, what came of copies, and other workers in their place.

use std::rc::Rc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::edge::upstream::PoolSettings;
use crate::policy::json;
use crate::reload::{Swap, Unswapped};

type Answer = (StatusCode, Value);

fn refused(status: StatusCode, why: impl Into<String>) -> Answer {
    (status, json!({ "error": why.into() }))
}

/// What is asked of pools; `path` is what follows `/pools`.
pub(super) async fn answer<B>(admin: &Admin, path: &str, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let snapshot = admin.reloader.now();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let pool = match parts.first() {
        None => None,
        Some(name) => match snapshot.pools.iter().find(|pool| **pool.name() == **name) {
            Some(pool) => Some(pool),
            None => return refused(StatusCode::NOT_FOUND, format!("there is no pool {name:?}")),
        },
    };
    match (pool, parts.as_slice()) {
        (None, _) if is_read => {
            let show = |(position, pool): (usize, &PoolSettings)| {
                let mut shown = pool.show();
                if let (Value::Object(members), guards @ [_, ..]) = (&mut shown, &*snapshot.cards.show(position)) {
                    members.insert("guards".into(), guards.into());
                }
                (pool.name().to_string(), shown)
            };
            let pools: Map<_, _> = snapshot.pools.iter().enumerate().map(show).collect();
            (StatusCode::OK, Value::Object(pools))
        }
        (Some(pool), [_, "compare"]) if is_read => match pool.compare() {
            Some(report) => (StatusCode::OK, report),
            None => refused(
                StatusCode::NOT_FOUND,
                format!("nothing is copied: write [pools.{}.shadow] into the configuration", pool.name()),
            ),
        },
        (Some(pool), [_, "swap"]) if is_read => match admin.reloader.last_swap(pool.name()) {
            Some(swap) => (StatusCode::OK, show(&swap)),
            None => refused(StatusCode::NOT_FOUND, "its workers were not swapped since the start"),
        },
        (Some(pool), [_, "workers"]) if *request.method() == Method::PUT => {
            let name = pool.name().to_string();
            swap(admin, &name, request).await
        }
        (_, [_, "workers"]) => refused(StatusCode::METHOD_NOT_ALLOWED, "only PUT is taken here"),
        (_, [] | [_, "compare" | "swap"]) => refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is taken here"),
        _ => refused(
            StatusCode::NOT_FOUND,
            "there are /pools, /pools/NAME/compare, /pools/NAME/swap and PUT /pools/NAME/workers",
        ),
    }
}

/// What is asked for in a swap.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    workers: Vec<String>,
}

/// Puts other workers into a pool.
async fn swap<B>(admin: &Admin, name: &str, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const MOST_BYTES: usize = 64 << 10;
    let body = Box::pin(Limited::new(request.into_body(), MOST_BYTES)).collect().await;
    let Ok(body) = body.map(http_body_util::Collected::to_bytes) else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, format!("send at most {MOST_BYTES} octets"));
    };
    let asked = json::parse(&body, 4).ok().and_then(|value| serde_json::from_value::<Asked>(value).ok());
    let Some(Asked { workers }) = asked else {
        return refused(StatusCode::BAD_REQUEST, "send JSON such as {\"workers\": [\"http://127.0.0.1:9002\"]}");
    };
    let listed = |status, why: &str, failures: Vec<String>| {
        (status, json!({ "error": format!("{why}: {}", failures.join("; ")), "failures": failures }))
    };
    let (reloader, pool) = (Rc::clone(&admin.reloader), name.to_owned());
    match super::to_the_end(async move { reloader.swap(&pool, &workers).await }).await {
        Ok(swap) => (StatusCode::OK, show(&swap)),
        Err(Unswapped::Unknown) => refused(StatusCode::NOT_FOUND, format!("there is no pool {name:?}")),
        Err(Unswapped::Closed) => refused(
            StatusCode::CONFLICT,
            format!(
                "its workers are changed by the files alone: write [pools.{name}.swap] with `golden` to allow this"
            ),
        ),
        Err(Unswapped::Overtaken) => {
            refused(StatusCode::CONFLICT, "the pool was changed while the new workers were tested; ask again")
        }
        Err(Unswapped::Malformed(mistakes)) => listed(StatusCode::BAD_REQUEST, "these can't be workers", mistakes),
        Err(Unswapped::Failed(failures)) => {
            listed(StatusCode::UNPROCESSABLE_ENTITY, "the new workers are not good, and the old ones go on", failures)
        }
    }
}

fn show(swap: &Swap) -> Value {
    let names = |workers: &[crate::types::Name]| workers.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "stage": swap.stage.name(),
        "cause": swap.cause,
        "workers": names(&swap.workers),
        "before": names(&swap.before),
        "watch_seconds": swap.watch.as_secs_f64(),
        "note": "the configuration on disk still rules: its next reload puts the workers in that it names",
    })
}

/// The methods of a path.
pub(super) fn allow(path: &str) -> &'static str {
    if path.ends_with("/workers") { "PUT" } else { "GET, HEAD" }
}
