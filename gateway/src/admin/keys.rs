//! API keys for operators: list, issue, rotate, revoke. Takes digests and shows none: whoever issues a key makes it,
//! and the key itself never comes here.

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Admin, now};
use crate::edge::api_keys::{Change, StoreLost};
use crate::exchange::Snapshot;
use crate::policy::authenticate::api_key::{MOST_BYTES, Malformed, Record, Shown, is_id};
use crate::policy::json;
use crate::types::Sha256;

/// How many keys one answer lists where nobody says how many, and at most.
const LISTED: usize = 100;
const MOST_LISTED: usize = 1000;
/// The longest overlap of two digests: a year, in seconds.
const MOST_OVERLAP: u64 = 366 * 86_400;

type Answer = (StatusCode, Value);

fn refused(status: StatusCode, why: impl Into<String>) -> Answer {
    (status, json!({ "error": why.into() }))
}

fn lost(StoreLost: StoreLost) -> Answer {
    refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "Redis, which keeps the keys, does not answer; nothing is known of what was done",
    )
}

fn malformed(why: Malformed) -> Answer {
    refused(StatusCode::BAD_REQUEST, format!("the key can't be kept: {why}"))
}

/// What is asked of keys; `path` is what follows `/keys`.
pub(super) async fn answer<B>(admin: &Admin, path: &str, request: Request<B>) -> Answer
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let snapshot = admin.reloader.now();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if let Some(id) = parts.first().filter(|id| !is_id(id)) {
        let why = format!("{id:?} can't be an id: use 1 to 64 lower-case letters, digits and -");
        return refused(StatusCode::BAD_REQUEST, why);
    }
    let done = match (request.method().as_str(), parts.as_slice()) {
        ("GET" | "HEAD", []) => list(admin, &snapshot, request.uri().query().unwrap_or_default()).await,
        ("PUT", [id]) => match body(request).await {
            Ok(asked) => issue(admin, &snapshot, id, &asked).await,
            Err(answer) => return answer,
        },
        ("PUT", [id, "rotate"]) => match body(request).await {
            Ok(asked) => rotate(admin, &snapshot, id, &asked).await,
            Err(answer) => return answer,
        },
        ("DELETE", [id]) => revoke(admin, &snapshot, id, false).await,
        ("DELETE", [id, "old"]) => revoke(admin, &snapshot, id, true).await,
        _ => Err(refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "there are GET /keys, PUT /keys/ID, PUT /keys/ID/rotate, DELETE /keys/ID and DELETE /keys/ID/old",
        )),
    };
    done.unwrap_or_else(|answer| answer)
}

/// The methods that a path takes.
pub(super) fn allow(path: &str) -> &'static str {
    match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        [] => "GET, HEAD",
        [_] => "PUT, DELETE",
        [_, "rotate"] => "PUT",
        _ => "DELETE",
    }
}

async fn body<B>(request: Request<B>) -> Result<Vec<u8>, Answer>
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Box::pin(Limited::new(request.into_body(), MOST_BYTES)).collect().await;
    let body = body.map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE, format!("send at most {MOST_BYTES} octets")))?;
    Ok(body.to_bytes().to_vec())
}

/// Whether keys can be changed at all, and this one in Redis.
fn writable(snapshot: &Snapshot, id: &str) -> Result<(), Answer> {
    let keys = snapshot.policy.authenticator.api_keys();
    if keys.in_redis().is_none() {
        let why =
            "keys are kept in the policy alone; write store = \"redis\" under [api_key], or use `gateway key new`";
        return Err(refused(StatusCode::CONFLICT, why));
    }
    match keys.shown(id) {
        None => Ok(()),
        Some(_) => Err(refused(
            StatusCode::CONFLICT,
            format!("the key {id:?} stands in the policy; change it there and reload"),
        )),
    }
}

async fn issue(admin: &Admin, snapshot: &Snapshot, id: &str, asked: &[u8]) -> Result<Answer, Answer> {
    writable(snapshot, id)?;
    let record = Record::new(asked, now()).map_err(malformed)?;
    let authenticator = &snapshot.policy.authenticator;
    let undefined = record.undefined(&snapshot.policy.vocabulary, authenticator.api_keys().limits());
    if !undefined.is_empty() {
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, undefined.join("\n")));
    }
    if !admin.api_keys.issue(id, &record).await.map_err(lost)? {
        let why = format!("there is a key {id:?}; rotate it, or revoke it first");
        return Err(refused(StatusCode::CONFLICT, why));
    }
    admin.log.security("key-issued", &[("id", id), ("owner", &record.shown().owner)]);
    Ok((StatusCode::CREATED, described(id, &record.shown(), "redis", None)))
}

/// A new digest, and how long the old one goes on, in seconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    digest: String,
    overlap: u64,
}

async fn rotate(admin: &Admin, snapshot: &Snapshot, id: &str, asked: &[u8]) -> Result<Answer, Answer> {
    writable(snapshot, id)?;
    let asked = json::parse(asked, 1).ok().and_then(|value| serde_json::from_value::<Rotation>(value).ok());
    let asked = asked.and_then(|asked| Some((Sha256::parse(&asked.digest)?, asked.overlap)));
    let Some((digest, overlap)) = asked.filter(|(_, overlap)| *overlap <= MOST_OVERLAP) else {
        let why = "send a JSON object with digest and overlap, which is a number of seconds, a year at most";
        return Err(refused(StatusCode::BAD_REQUEST, why));
    };
    let at = now();
    let change = |record: Result<Record, Malformed>| {
        let record = record.map_err(malformed)?;
        let next = record.rotated(digest, overlap, at).ok_or_else(|| {
            let why = "two are live already; end the older one first with `gateway key revoke ID --old`";
            refused(StatusCode::CONFLICT, why)
        })?;
        Ok(Change::Keep(Box::new(next)))
    };
    changed(admin, id, change).await?;
    admin.log.security("key-rotated", &[("id", id), ("overlap", &overlap.to_string())]);
    let old_ends = (overlap > 0).then(|| at.secs() + overlap);
    Ok((StatusCode::OK, json!({ "id": id, "old_ends": old_ends })))
}

async fn revoke(admin: &Admin, snapshot: &Snapshot, id: &str, old: bool) -> Result<Answer, Answer> {
    writable(snapshot, id)?;
    let change = |record: Result<Record, Malformed>| {
        if !old {
            return Ok(Change::End);
        }
        let next = record.map_err(malformed)?.without_old();
        let none = || refused(StatusCode::NOT_FOUND, format!("the key {id:?} has no older one that goes on"));
        next.map(|record| Change::Keep(Box::new(record))).ok_or_else(none)
    };
    changed(admin, id, change).await?;
    admin.log.security("key-revoked", &[("id", id), ("which", if old { "old" } else { "all" })]);
    Ok((StatusCode::OK, json!({ "id": id, "revoked": if old { "old" } else { "all" } })))
}

async fn changed(
    admin: &Admin,
    id: &str,
    change: impl Fn(Result<Record, Malformed>) -> Result<Change, Answer>,
) -> Result<(), Answer> {
    match admin.api_keys.change(id, change).await.map_err(lost)? {
        Some(done) => done,
        None => Err(refused(StatusCode::NOT_FOUND, format!("there is no key {id:?}; `gateway key list` shows all"))),
    }
}

/// The keys of the policy and of Redis, in the order of their ids.
async fn list(admin: &Admin, snapshot: &Snapshot, query: &str) -> Result<Answer, Answer> {
    let of = |wanted: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, is)| is);
    let after = of("after").unwrap_or_default();
    let count =
        of("limit").map_or(Some(LISTED), |text| text.parse().ok()).filter(|count| (1..=MOST_LISTED).contains(count));
    let Some(count) = count else {
        return Err(refused(StatusCode::BAD_REQUEST, format!("limit is a number from 1 to {MOST_LISTED}")));
    };
    let keys = snapshot.policy.authenticator.api_keys();
    let in_redis = keys.in_redis().is_some();
    let mut found: Vec<(String, Result<Shown, Malformed>, &str)> = Vec::new();
    for id in keys.ids_after(&after, count) {
        found.extend(keys.shown(id).map(|shown| (id.to_owned(), Ok(shown.clone()), "policy")));
    }
    if in_redis {
        let listed = admin.api_keys.list(&after, count).await.map_err(lost)?;
        let others = listed.into_iter().filter(|key| keys.shown(&key.id).is_none());
        found.extend(others.map(|key| (key.id, key.record.map(|record| record.shown()), "redis")));
        found.sort_by(|one, other| one.0.cmp(&other.0));
    }
    found.truncate(count);
    let ids: Vec<&str> = found.iter().map(|(id, _, _)| id.as_str()).collect();
    let used = admin.api_keys.last_used(&ids, in_redis).await.map_err(lost)?;
    let next = (found.len() == count).then(|| found.last().map(|(id, _, _)| id.clone())).flatten();
    let listed = found.iter().zip(used).map(|((id, shown, store), used)| match shown {
        Ok(shown) => described(id, shown, store, used),
        Err(why) => json!({ "id": id, "store": store, "state": "malformed", "error": why }),
    });
    Ok((StatusCode::OK, json!({ "keys": listed.collect::<Vec<_>>(), "next": next })))
}

fn described(id: &str, shown: &Shown, store: &str, used: Option<u64>) -> Value {
    let secs = now().secs();
    let state = if shown.expires.is_some_and(|expires| expires <= secs) {
        "expired"
    } else if shown.not_before.is_some_and(|from| secs < from) {
        "not-yet"
    } else {
        "good"
    };
    // A key of the same id may have been used before.
    let used =
        used.map(|minute| minute * 60).filter(|used| shown.created.is_none_or(|created| created / 60 * 60 <= *used));
    let mut members = Map::new();
    members.insert("id".into(), id.into());
    members.insert("store".into(), store.into());
    members.insert("state".into(), state.into());
    if let Ok(Value::Object(rest)) = serde_json::to_value(shown) {
        members.extend(rest);
    }
    members.insert("last_used".into(), used.into());
    Value::Object(members)
}
