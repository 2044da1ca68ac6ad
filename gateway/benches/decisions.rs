//! What each pure decision costs: `cargo bench`, or `cargo bench -p gateway -- NAME` for some of them.
//!
//! One request's worth of each, as `journey` asks for them, on a policy that is compiled as the real one is. What all
//! of them cost together, with everything around them, is counted by `tests/counts/run`.
#![expect(clippy::expect_used, clippy::panic, reason = "what can't be measured ends the measurement")]

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use divan::Bencher;
use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use gateway::edge::api_keys::{ApiKeys, SharedApiKeys};
use gateway::edge::counter::{Keys, MemoryStore, SharedStore, StoreSettings};
use gateway::edge::grants::{Grants, SharedGrants};
use gateway::edge::keys::KeyRing;
use gateway::edge::log::{BatchLog, Format, LogWriter, Record};
use gateway::edge::upstream::{Forwarded, Told};
use gateway::frames::Frames;
use gateway::head;
use gateway::policy::authenticate::api_key::{Found, StoredKey, StoredKeys};
use gateway::policy::authenticate::jwt::{self, Introspections, Proven, Revocations};
use gateway::policy::authenticate::seen::SeenTokens;
use gateway::policy::authenticate::{Known, api_key};
use gateway::policy::authorize::Asked;
use gateway::policy::body::Active;
use gateway::policy::facts::Facts;
use gateway::policy::limit::cost::Size;
use gateway::policy::limit::scope::Subject;
use gateway::policy::limit::{Admission, Demand};
use gateway::policy::route::RouteId;
use gateway::policy::token::{Form, Holder, compose_secret};
use gateway::policy::{Policy, Route, path};
use gateway::settings::{Mistakes, Section, Source};
use gateway::types::{Binding, RequestIds, Sha256, Timestamp, TokenId};
use gateway::wire::{Bounds, Wire};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const FLOWER: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;
const KEY: &str = "mgk_team-0_";

const POLICY: &str = r#"
[roles.reader]
[roles.predictor]
includes = ["reader"]

[cors.browser]
origins = ["https://one.example.com", "https://two.example.com", "https://app.example.com"]

[limits.one]
quota = 100000
window = "1s"
by = ["address"]
store_lost = "deny"
[limits.two]
quota = 10000
window = "60s"
by = ["principal", "route"]
store_lost = "deny"

[defaults]
authenticate = ["api_key", "jwt"]
limits = ["one"]

[routes.predict]
path = "/predict"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
cors = "browser"
body = { schema = "iris" }

[routes.json]
path = "/json"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
limits = ["one", "two"]
body = {}

[routes.text]
path = "/text"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
[routes.text.body.clean_text.text]
at = "/text"
max_chars = 2000

[schemas.iris]
type = "object"
required = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
additionalProperties = false
[schemas.iris.properties]
sepal_length = { type = "number", exclusiveMinimum = 0, maximum = 30 }
sepal_width = { type = "number", exclusiveMinimum = 0, maximum = 30 }
petal_length = { type = "number", exclusiveMinimum = 0, maximum = 30 }
petal_width = { type = "number", exclusiveMinimum = 0, maximum = 30 }
"#;

fn main() {
    divan::main();
}

/// A policy with its secret, and no files.
struct Written {
    secret: String,
}

impl Source for Written {
    fn locate(&self, _: &[String]) -> String {
        String::new()
    }

    fn rank(&self, _: &[String]) -> Option<usize> {
        None
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        Err(format!("{name} is not there"))
    }

    fn variable(&self, _: &str) -> Option<String> {
        Some(self.secret.clone())
    }
}

/// The policy above, with what `more` adds.
fn policy(secret: String, more: impl FnOnce(&mut Dict)) -> Policy {
    let mut dict: Dict = Figment::from(Toml::string(POLICY)).extract().expect("TOML");
    more(&mut dict);
    let mistakes = Mistakes::default();
    let source = Written { secret };
    let policy = Policy::compile(&Section::root(&source, &mistakes, &dict), &["models".into()]);
    let mistakes = mistakes.into_vec();
    policy.filter(|_| mistakes.is_empty()).unwrap_or_else(|| panic!("{mistakes:?}"))
}

fn plain() -> Policy {
    policy(String::new(), |_| {})
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::from(Dict::from(entries.map(|(key, value)| (key.to_owned(), value))))
}

fn route<'p>(policy: &'p Policy, path: &str) -> &'p Route {
    let id = policy.table.find("localhost", path, &Method::POST).expect("it is there");
    policy.route(id).expect("it has a row")
}

/// What a program sends with a flower, and something more.
fn headers(more: &[(&'static str, &str)]) -> HeaderMap {
    let usual = [
        ("host", "localhost:8443"),
        ("user-agent", "python-httpx/0.28.1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("origin", "https://app.example.com"),
        ("content-type", "application/json"),
        ("content-length", "75"),
    ];
    let all = usual.iter().chain(more);
    all.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))).collect()
}

#[divan::bench(args = ["/models/iris/predict", "/models/%69ris/caf%c3%a9"])]
fn path_normal_form(bencher: Bencher<'_, '_>, path: &str) {
    bencher.bench(|| path::normalize(black_box(path)).is_ok());
}

/// By an exact path, and by a pattern, of which there are as many.
#[divan::bench(args = ["exact", "pattern"], consts = [1, 100, 1000])]
fn route_lookup<const ROUTES: usize>(bencher: Bencher<'_, '_>, kind: &str) {
    let policy = policy(String::new(), |dict| {
        let route = |index: usize| {
            let path =
                if kind == "exact" { format!("/v2/m{index}/predict") } else { format!("/v2/m{index}/{{version}}") };
            let (methods, roles) = (Value::from(vec!["POST"]), Value::from(vec!["reader"]));
            let entry = [("path", path.into()), ("methods", methods), ("pool", "models".into()), ("authorize", roles)];
            (format!("r{index}"), table(entry))
        };
        dict.insert("routes".into(), Value::from((0..ROUTES).map(route).collect::<Dict>()));
    });
    let path = format!("/v2/m{}/predict", ROUTES / 2);
    bencher.bench(|| policy.table.find("localhost:8443", black_box(&path), &Method::POST).map(RouteId::index).is_ok());
}

#[divan::bench]
fn head_read(bencher: Bencher<'_, '_>) {
    let (uri, headers) = (Uri::from_static("/predict?trace=1"), headers(&[]));
    bencher.bench(|| head::read(Version::HTTP_11, &Method::POST, black_box(&uri), &headers).is_ok());
}

#[divan::bench]
fn cors_decide(bencher: Bencher<'_, '_>) {
    let (policy, headers) = (plain(), headers(&[]));
    let cors = route(&policy, "/predict").cors.as_ref().expect("it has a rule");
    bencher.bench(|| cors.decide(black_box(&headers)));
}

#[divan::bench]
fn cors_apply(bencher: Bencher<'_, '_>) {
    let (policy, headers) = (plain(), headers(&[]));
    let cors = route(&policy, "/predict").cors.as_ref().expect("it has a rule");
    bencher.with_inputs(|| (cors.decide(&headers), HeaderMap::with_capacity(16))).bench_values(
        |(earned, mut answer)| {
            earned.apply(&mut answer);
            answer
        },
    );
}

/// A policy with so many API keys, and one of them.
fn keys(count: usize) -> (Policy, String) {
    let compose = |index: usize| {
        let mut secret = [7; 20];
        secret.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, digit)| *octet = digit);
        api_key::compose(&format!("team-{index}"), secret)
    };
    let policy = policy(String::new(), |dict| {
        let key = |index| {
            let digest = Sha256::of(compose(index).as_bytes()).to_string();
            let roles = Value::from(vec!["predictor"]);
            let entry = [("digest", digest.into()), ("owner", "a team".into()), ("roles", roles)];
            (format!("team-{index}"), table(entry))
        };
        dict.insert("api_keys".into(), Value::from((0..count).map(key).collect::<Dict>()));
    });
    (policy, compose(count / 2))
}

#[divan::bench(args = [10, 1_000, 1_000_000])]
fn api_key_decide(bencher: Bencher<'_, '_>, count: usize) {
    let (policy, key) = keys(count);
    authenticate(bencher, &policy, &headers(&[("x-api-key", &key)]), true);
}

/// A key in Redis that is remembered, among so many.
#[divan::bench(args = [10, 1_000, 1_000_000])]
fn api_key_decide_stored(bencher: Bencher<'_, '_>, count: usize) {
    let policy = policy(String::new(), |dict| {
        let cache = table([("store", "redis".into()), ("cache", 1_048_576_u64.into())]);
        dict.extend([("api_key".to_owned(), cache), ("store".to_owned(), table([("kind", "redis".into())]))]);
    });
    let route = route(&policy, "/predict");
    let mistakes = Mistakes::default();
    let (dict, source) = (
        Dict::from([("kind".to_owned(), "redis".into()), ("url".to_owned(), "redis://[::1]:1".into())]),
        Written { secret: String::new() },
    );
    let store = StoreSettings::compile(Section::root(&source, &mistakes, &dict)).expect("a store");
    let shared = Arc::new(SharedApiKeys::new(Arc::new(SharedStore::new(store, 1))));
    let stored = ApiKeys::new(Arc::clone(&shared), policy.authenticator.api_keys().in_redis());
    let compose = |index: usize| {
        let mut secret = [7; 20];
        secret.iter_mut().zip(index.to_be_bytes()).for_each(|(octet, digit)| *octet = digit);
        (format!("team-{index}"), api_key::compose(&format!("team-{index}"), secret))
    };
    for index in 0..count {
        let (id, key) = compose(index);
        let digest = Sha256::of(key.as_bytes());
        let record = format!("{{\"digest\":\"{digest}\",\"owner\":\"a team\",\"roles\":[\"predictor\"]}}");
        let record = api_key::Record::new(record.as_bytes(), NOW).expect("a record");
        shared.keep(&id, Arc::new(StoredKey::new(record)));
    }
    // Among the last half, which no bound has pushed out.
    let headers = headers(&[("x-api-key", &compose(count - count / 4 - 1).1)]);
    let (ring, seen) = (KeyRing::new(policy.authenticator.issuers()), SeenTokens::default());
    let known = Known { api_keys: &Heard(stored.known()), ..known(&ring, &seen) };
    let decide = |headers| policy.authenticator.decide(&route.authenticate, &facts(headers), &policy.vocabulary, known);
    assert!(decide(&headers).is_ok());
    bencher.bench_local(|| decide(black_box(&headers)));
}

/// Keys that are kept, as if Redis had just been heard.
struct Heard<'a>(&'a dyn StoredKeys);

impl StoredKeys for Heard<'_> {
    fn find(&self, id: &str) -> Found {
        self.0.find(id)
    }

    fn unknown_for(&self) -> Duration {
        Duration::ZERO
    }

    fn used(&self, id: &str, minute: u64) {
        self.0.used(id, minute);
    }
}

#[divan::bench(args = ["unknown", "mistyped"])]
fn api_key_refuse(bencher: Bencher<'_, '_>, why: &str) {
    let (policy, _) = keys(1_000);
    let mut key = api_key::compose("stranger", [9; 20]);
    if why == "mistyped" {
        key = format!("{KEY}{}", "0".repeat(48));
    }
    authenticate(bencher, &policy, &headers(&[("x-api-key", &key)]), false);
}

struct NoKeys;

impl StoredKeys for NoKeys {
    fn find(&self, _: &str) -> Found {
        Found::Absent
    }

    fn unknown_for(&self) -> Duration {
        Duration::ZERO
    }

    fn used(&self, _: &str, _: u64) {}
}

struct NothingRevoked;

impl Revocations for NothingRevoked {
    fn is_revoked(&self, _: TokenId) -> bool {
        false
    }

    fn unknown_for(&self) -> Duration {
        Duration::ZERO
    }
}

/// Issuers that nobody asks.
struct NothingSaid;

impl Introspections for NothingSaid {
    fn said(&self, _: usize, _: &Sha256, _: Timestamp) -> Option<Result<Proven, jwt::Refusal>> {
        None
    }
}

fn known<'a>(ring: &'a KeyRing, seen: &'a SeenTokens) -> Known<'a> {
    Known { keys: ring, introspections: &NothingSaid, revocations: &NothingRevoked, seen, api_keys: &NoKeys }
}

fn facts(headers: &HeaderMap) -> Facts<'_> {
    Facts {
        method: &Method::POST,
        host: "localhost",
        path: "/predict",
        sent_path: "/predict",
        query: None,
        headers,
        certificate: None,
        address: CLIENT,
        now: NOW,
    }
}

fn authenticate(bencher: Bencher<'_, '_>, policy: &Policy, headers: &HeaderMap, good: bool) {
    let route = route(policy, "/predict");
    let (ring, seen) = (KeyRing::new(policy.authenticator.issuers()), SeenTokens::default());
    let decide = |headers| {
        policy.authenticator.decide(&route.authenticate, &facts(headers), &policy.vocabulary, known(&ring, &seen))
    };
    assert_eq!(decide(headers).is_ok(), good);
    bencher.bench_local(|| decide(black_box(headers)));
}

/// A policy that issues tokens, and a token.
fn tokens(algorithm: &str) -> (Policy, HeaderMap) {
    tokens_and(algorithm, |_| ())
}

fn tokens_and(algorithm: &str, more: impl FnOnce(&mut Dict)) -> (Policy, HeaderMap) {
    let secret = match algorithm {
        "RS256" => rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        "ES256" => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        _ => Err(rcgen::Error::KeyGenerationUnavailable),
    };
    let secret = secret
        .map_or_else(|_| "b58c1f0a7d9e4463a2c87b1e5f90d3c46e8a1b7295cd40f3".to_owned(), |key| key.serialize_pem());
    let policy = policy(secret, |dict| {
        let token = [
            ("issuer", "https://localhost:8443".into()),
            ("audience", "modelgate".into()),
            ("algorithm", algorithm.into()),
            ("signing_key", table([("env", "KEY".into())])),
            ("danger_password_grant", true.into()),
        ];
        dict.insert("token".into(), table(token));
        more(dict);
    });
    let issuer = policy.issuer.as_ref().expect("it issues tokens");
    let holder = Holder { user: Some("alice"), client: None, scope: "", grant: "", bound: Binding::default() };
    let minted = issuer.mint(&holder, &policy.vocabulary.roles, RequestIds::new([1; 16]).next(), NOW).expect("a token");
    let minted = serde_json::to_value(minted).expect("JSON");
    let token = minted.get("access_token").and_then(serde_json::Value::as_str).expect("a token");
    let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
    (policy, headers)
}

#[divan::bench(args = ["HS256", "RS256", "ES256"])]
fn jwt_decide_first(bencher: Bencher<'_, '_>, algorithm: &str) {
    let (policy, headers) = tokens(algorithm);
    let route = route(&policy, "/predict");
    let ring = KeyRing::new(policy.authenticator.issuers());
    bencher.with_inputs(SeenTokens::default).bench_local_refs(|seen| {
        let decided =
            policy.authenticator.decide(&route.authenticate, &facts(&headers), &policy.vocabulary, known(&ring, seen));
        decided.expect("the token is good")
    });
}

#[divan::bench(args = ["HS256", "RS256", "ES256"])]
fn jwt_decide_seen_before(bencher: Bencher<'_, '_>, algorithm: &str) {
    let (policy, headers) = tokens(algorithm);
    authenticate(bencher, &policy, &headers, true);
}

/// Among so many revoked tokens.
#[divan::bench(args = [0, 1_000, 100_000])]
fn jwt_decide_seen_before_among_revoked(bencher: Bencher<'_, '_>, revoked: u64) {
    let (policy, headers) = tokens("HS256");
    let route = route(&policy, "/predict");
    let (ring, seen) = (KeyRing::new(policy.authenticator.issuers()), SeenTokens::default());
    let mistakes = Mistakes::default();
    let (dict, source) = (Dict::new(), Written { secret: String::new() });
    let store = StoreSettings::compile(Section::root(&source, &mistakes, &dict)).expect("defaults");
    let shared = Arc::new(SharedGrants::new(Arc::new(SharedStore::new(store, 1))));
    let grants = Grants::new(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..revoked {
            let until = Timestamp::from_secs(NOW.secs() + 1000);
            grants.revoke(TokenId::of_token(&number.to_string()), until, NOW).await.expect("there is no Redis to lose");
        }
    });
    let known = Known {
        keys: &ring,
        introspections: &NothingSaid,
        revocations: grants.revocations(),
        seen: &seen,
        api_keys: &NoKeys,
    };
    let decide = |headers| policy.authenticator.decide(&route.authenticate, &facts(headers), &policy.vocabulary, known);
    assert!(decide(&headers).is_ok());
    bencher.bench_local(|| decide(black_box(&headers)));
}

/// A client's secret: right, wrong, and of nobody. None of them should tell from its time which it was.
#[divan::bench(args = ["right", "wrong", "unknown"])]
fn client_decide(bencher: Bencher<'_, '_>, what: &str) {
    let secret = compose_secret([7; 20]);
    let digest = Sha256::of(secret.as_bytes()).to_string();
    let (policy, _) = tokens_and("HS256", |dict| {
        let client = [("digest", digest.as_str().into()), ("grants", vec!["client_credentials"].into())];
        dict.insert("clients".into(), table([("ci", table(client))]));
    });
    let issuer = policy.issuer.as_ref().expect("it issues tokens");
    let (name, secret) = match what {
        "right" => ("ci", secret),
        "wrong" => ("ci", compose_secret([8; 20])),
        _ => ("xx", secret),
    };
    let form = Form::parse(format!("client_id={name}&client_secret={secret}").as_bytes()).expect("a form");
    let headers = HeaderMap::new();
    assert_eq!(issuer.client(&form, &headers).is_ok(), what == "right");
    bencher.bench_local(|| issuer.client(black_box(&form), &headers).is_ok());
}

#[divan::bench]
fn authorize(bencher: Bencher<'_, '_>) {
    let (policy, key) = keys(1);
    let route = route(&policy, "/predict");
    let (ring, seen) = (KeyRing::new(policy.authenticator.issuers()), SeenTokens::default());
    let headers = headers(&[("x-api-key", &key)]);
    let principal =
        policy.authenticator.decide(&route.authenticate, &facts(&headers), &policy.vocabulary, known(&ring, &seen));
    let principal = principal.expect("the key is good");
    let facts = facts(&headers);
    let asked = Asked { model: "", unread: false, version: "", facts: &facts };
    bencher.bench_local(|| route.authorize.decide(black_box(&principal), &asked).is_ok());
}

/// Counted in process, by one limit and by two, with what the answer says of them.
#[divan::bench(args = ["/predict", "/json"])]
fn limit(bencher: Bencher<'_, '_>, path: &str) {
    let policy = plain();
    let route = route(&policy, path);
    let store = MemoryStore::new(1024);
    let subject = Subject {
        address: CLIENT,
        principal: "key:team-0",
        api_key: "key:team-0",
        role: "",
        route: &route.name,
        model: "",
        pool: "",
        user: "",
        headers: None,
    };
    // A request each 10 ms, so that as many are forgotten as come.
    let mut now = NOW.micros();
    bencher.bench_local(|| {
        now += 10_000;
        let windows = route.limits.windows.iter();
        let demands: Vec<Demand<'_>> = windows.map(|limit| Demand::new(limit, None, Size::default())).collect();
        let keys = Keys::new(&demands, black_box(&subject));
        let decision = store.admit(&demands, &keys, || now, |demand| Some(demand.rate.quota)).expect("there is room");
        Admission::from_decision(&demands, &decision).is_ok()
    });
}

/// Type and length, then the content: JSON alone, with a JSON Schema, with text that is clean already.
#[divan::bench(args = ["/json", "/predict", "/text"])]
fn body(bencher: Bencher<'_, '_>, path: &str) {
    let (policy, headers) = (plain(), headers(&[]));
    let rule = route(&policy, path).body.as_ref().expect("it has a rule");
    let text = r#"{"text":"Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem K"}"#;
    let body = if path == "/text" { text } else { FLOWER };
    assert!(
        rule.decide(&headers, body.as_bytes(), Active::Unasked).is_ok_and(|checked| checked.into_rewritten().is_none()),
        "it is taken as it is"
    );
    bencher.bench(|| {
        rule.decide_head(&headers).is_ok() && rule.decide(&headers, black_box(body.as_bytes()), Active::Unasked).is_ok()
    });
}

#[divan::bench]
fn wire_follow(bencher: Bencher<'_, '_>) {
    let headers = headers(&[("x-api-key", &api_key::compose("team-0", [7; 20]))]);
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}\r\n", value.to_str().expect("text"));
    let lines = headers.iter().map(line).collect::<Vec<_>>().concat();
    let request = format!("POST /predict HTTP/1.1\r\n{lines}\r\n{FLOWER}");
    let mut wire = Wire::new(Bounds { head: 16 << 10, headers: 64 });
    bencher.bench_local(|| assert_eq!(wire.follow(black_box(request.as_bytes())), request.len()));
}

#[divan::bench]
fn frames_follow(bencher: Bencher<'_, '_>) {
    let frame = |kind: u8, flags: u8, length: u8| {
        let payload = vec![0; usize::from(length)];
        [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &payload].concat()
    };
    let mut begin = [vec![b'p'; 24], frame(4, 0, 0)].concat();
    let mut request = [frame(1, 4, 60), frame(0, 1, 75)].concat();
    let now = Instant::now();
    let mut frames = Frames::new(now);
    assert_eq!(frames.follow(&mut begin, || now), begin.len());
    let length = request.len();
    bencher.bench_local(|| assert_eq!(frames.follow(black_box(&mut request), || now), length));
}

#[divan::bench]
fn request_id(bencher: Bencher<'_, '_>) {
    let ids = RequestIds::new([1; 16]);
    bencher.bench_local(|| ids.next());
}

/// Which headers the worker gets, and ours, as octets.
#[divan::bench]
fn headers_forwarded(bencher: Bencher<'_, '_>) {
    let (policy, key) = keys(1);
    let route = route(&policy, "/predict");
    let (ring, seen) = (KeyRing::new(policy.authenticator.issuers()), SeenTokens::default());
    let headers = headers(&[("x-api-key", &key)]);
    let principal =
        policy.authenticator.decide(&route.authenticate, &facts(&headers), &policy.vocabulary, known(&ring, &seen));
    let principal = principal.expect("the key is good");
    let told = Told {
        credential: policy.api_key_header(),
        client: "192.0.2.7",
        authority: None,
        http2: false,
        id: RequestIds::new([1; 16]).next(),
        principal: &principal,
        assertion: None,
        route: &route.name,
        is_read_here: false,
        deadline: None,
        is_rewritten: false,
        json: None,
    };
    let mut out = Vec::with_capacity(2048);
    bencher.bench_local(|| {
        out.clear();
        Forwarded::new(black_box(&headers), told).expect("they pass").write(&mut out);
    });
}

/// A request's record in JSON, with its part in handing a full batch on.
#[divan::bench]
fn log_record(bencher: Bencher<'_, '_>) {
    let writer = LogWriter::start(Format::Json, io::sink()).expect("a thread");
    let batch = BatchLog::new(writer.log());
    let record = Record {
        id: RequestIds::new([1; 16]).next(),
        began: SystemTime::now(),
        took: Duration::from_micros(412),
        client: "192.0.2.7",
        method: "POST",
        path: "/predict",
        protocol: "HTTP/1.1",
        status: 200,
        route: Some("predict"),
        principal: Some("key:team-0"),
        role: Some("predictor"),
        reason: None,
        cause: None,
        security: false,
        bytes_in: 75,
        bytes_out: 120,
        pool: Some("models"),
        worker: Some("127.0.0.1:9001"),
        worker_took: Some(Duration::from_micros(301)),
        normalized: None,
        would_refuse: None,
        flagged: None,
        model: None,
    };
    bencher.bench_local(|| batch.request(black_box(&record)));
    drop(batch);
    writer.finish();
}
