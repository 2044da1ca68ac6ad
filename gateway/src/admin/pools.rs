//! Pools for operators: how their workers are, what came of copies, and other workers in their place.

use std::rc::Rc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::edge::upstream::{Thresholds, Which};
use crate::policy::json;
use crate::reload::{NOTE, Swap, Unswapped};

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
            let pools: Map<_, _> = snapshot.pools.iter().map(|pool| (pool.name().to_string(), pool.show())).collect();
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
        (Some(pool), [_, what @ ("workers" | "promotion")]) if *request.method() == Method::PUT => {
            let (name, is_promotion) = (pool.name().to_string(), *what == "promotion");
            change(admin, &name, is_promotion, request).await
        }
        (_, [_, "workers" | "promotion"]) => refused(StatusCode::METHOD_NOT_ALLOWED, "only PUT is taken here"),
        (_, [] | [_, "compare" | "swap"]) => refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is taken here"),
        _ => refused(
            StatusCode::NOT_FOUND,
            "there are /pools, /pools/NAME/compare, /pools/NAME/swap, and to PUT /pools/NAME/workers and /pools/NAME/promotion",
        ),
    }
}

/// What is asked for in a swap.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Swapping {
    workers: Vec<String>,
}

/// What is asked for in a promotion.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promoting {
    /// Whose candidate, where there are two.
    #[serde(default)]
    from: Option<Which>,
    /// What its copies must have shown; nothing, if it is not there.
    #[serde(default)]
    require: Option<Thresholds>,
}

enum Asked {
    Swap(Swapping),
    Promotion(Promoting),
}

/// Puts other workers into a pool.
async fn change<B>(admin: &Admin, name: &str, is_promotion: bool, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const MOST_BYTES: usize = 64 << 10;
    let body = Box::pin(Limited::new(request.into_body(), MOST_BYTES)).collect().await;
    let Ok(body) = body.map(http_body_util::Collected::to_bytes) else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, format!("send at most {MOST_BYTES} octets"));
    };
    let value = json::parse(&body, 4).ok();
    let (asked, example) = if is_promotion {
        let asked = value.and_then(|value| serde_json::from_value(value).ok());
        (asked.map(Asked::Promotion), "{\"from\": \"shadow\", \"require\": {\"compared\": 100, \"agreement\": 99}}")
    } else {
        let asked = value.and_then(|value| serde_json::from_value(value).ok());
        (asked.map(Asked::Swap), "{\"workers\": [\"http://127.0.0.1:9002\"]}")
    };
    let Some(asked) = asked else {
        return refused(StatusCode::BAD_REQUEST, format!("send JSON such as {example}"));
    };
    let listed = |status, why: &str, failures: Vec<String>| {
        (status, json!({ "error": format!("{why}: {}", failures.join("; ")), "failures": failures }))
    };
    let (reloader, pool) = (Rc::clone(&admin.reloader), name.to_owned());
    let changed = super::to_the_end(async move {
        match asked {
            Asked::Swap(asked) => reloader.swap(&pool, &asked.workers).await,
            Asked::Promotion(asked) => reloader.promote(&pool, asked.from, asked.require.as_ref()).await,
        }
    });
    match changed.await {
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
        Err(Unswapped::NoCandidate(why)) => refused(StatusCode::CONFLICT, why),
        Err(Unswapped::Unmet(unmet)) => {
            listed(StatusCode::CONFLICT, "the candidate has not shown what is asked for", unmet)
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
        "promoted": swap.promoted.as_deref(),
        "note": NOTE,
    })
}

/// The methods of a path.
pub(super) fn allow(path: &str) -> &'static str {
    if path.ends_with("/workers") || path.ends_with("/promotion") { "PUT" } else { "GET, HEAD" }
}
