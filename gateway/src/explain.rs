//! What would become of a request, and why? The journey without its edges.
//!
//! The same decisions in the same order as in [`journey`](crate::journey), with what a store, a clock or a worker
//! would add left out: a limit is full here only where the request costs more than it ever admits. Who asks is
//! named, not proven, so no credential is needed. Pure: a policy, a request and a time in, steps out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use serde_json::{Map, Value};

use crate::head;
use crate::policy::authenticate::api_key::{Found, StoredKeys};
use crate::policy::authenticate::jwt::{self, Introspections, Keys, Proven, Revocations, VerifyKey};
use crate::policy::authenticate::seen::SeenTokens;
use crate::policy::authenticate::{self, Accepted, Authenticate, Known, Undecided, certificate};
use crate::policy::authorize::{self, Permit};
use crate::policy::body::{self, Active};
use crate::policy::facts::Facts;
use crate::policy::fernet::Direction;
use crate::policy::limit::cost::Size;
use crate::policy::limit::window::Standing;
use crate::policy::limit::{Admission, Decision, Demand, WhenFull};
use crate::policy::profile::Profile;
use crate::policy::{Destination, Policy, Route, cors, path};
use crate::problem::{Problem, Reason, Stop};
use crate::types::{Principal, RoleSet, Scheme, Sha256, Timestamp, TokenId};

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub target: Uri,
    /// Its headers; `Host` among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Option<Vec<u8>>,
    /// The client's address.
    pub address: IpAddr,
    /// Who asks: [`Caller::parse`].
    pub caller: Caller,
    /// The scopes of whoever is named.
    pub scopes: Vec<String>,
    /// And the claims.
    pub claims: Map<String, Value>,
    /// When.
    pub now: Timestamp,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever the headers prove it to be.
    Headers,
    /// The holder of an API key, by its id.
    ApiKey(String),
    /// Whoever a client certificate stands for, by the name of its entry.
    Certificate(String),
    /// Whoever signs with a key, by its id.
    Signer(String),
    /// A user of the gateway's own tokens.
    User(String),
    /// Somebody with these roles.
    Roles(Vec<String>),
}

impl Caller {
    /// Reads `team-a` or `key:team-a`, `cert:ci`, `signer:batch`, `user:alice`, `role:reader,admin`, or `anonymous`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some(("user", name)) => Self::User(name.into()),
            Some(("role", names)) => Self::Roles(names.split(',').map(|name| name.trim().into()).collect()),
            Some(("key", id)) => Self::ApiKey(id.into()),
            Some(("cert", name)) => Self::Certificate(name.into()),
            Some(("signer", id)) => Self::Signer(id.into()),
            _ if text == "anonymous" => Self::Headers,
            _ => Self::ApiKey(text.into()),
        }
    }
}

/// One stage of the journey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub stage: &'static str,
    /// What was decided.
    pub said: String,
    /// The key of the configuration that says so.
    pub key: Option<Vec<String>>,
}

/// The journey.
#[derive(Debug)]
pub struct Explained {
    /// Its stages, as far as it came.
    pub steps: Vec<Step>,
    /// The route, where one was found.
    pub route: Option<String>,
    /// The named right that opened it.
    pub right: Option<String>,
    /// The principal's id, where one was proven.
    pub principal: Option<String>,
    /// The limits that it meets, by name, with the quota for this caller.
    pub limits: Vec<(String, u64)>,
    /// Why it was refused, and with what detail; nothing where it is forwarded or answered.
    pub refused: Option<(Reason, String)>,
}

/// What is known without a network.
struct Nothing;

impl Keys for Nothing {
    fn is_failing(&self, _: usize) -> bool {
        false
    }

    fn of(&self, _: usize) -> Option<Arc<Vec<VerifyKey>>> {
        None
    }

    fn may_refetch(&self, _: usize) -> bool {
        false
    }
}

impl Introspections for Nothing {
    fn said(&self, _: usize, _: &Sha256, _: Timestamp) -> Option<Result<Proven, jwt::Refusal>> {
        None
    }
}

impl Revocations for Nothing {
    fn is_revoked(&self, _: TokenId) -> bool {
        false
    }

    fn unknown_for(&self) -> Duration {
        Duration::ZERO
    }
}

impl StoredKeys for Nothing {
    fn find(&self, _: &str) -> Found {
        Found::Absent
    }

    fn unknown_for(&self) -> Duration {
        Duration::ZERO
    }

    fn used(&self, _: &str, _: u64) {}
}

/// Walks a request through a policy.
#[must_use]
pub fn explain(policy: &Policy, asked: &Asked) -> Explained {
    let mut explained =
        Explained { steps: Vec::new(), route: None, right: None, principal: None, limits: Vec::new(), refused: None };
    if let Err(stop) = walk(policy, asked, &mut explained) {
        let problem = Problem::from(stop);
        explained.refused = Some((problem.reason, problem.detail().to_owned()));
    }
    explained
}

impl Explained {
    /// Notes what a rule that is only tried out would have done.
    fn tried(&mut self, stage: &'static str, stop: Stop, route: &str) {
        let reason = Problem::from(stop).reason.slug();
        self.note(stage, format!("would refuse: {reason}"), &["routes", route, "danger_shadow"]);
    }

    fn note(&mut self, stage: &'static str, said: impl Into<String>, key: &[&str]) {
        let key = (!key.is_empty()).then(|| key.iter().map(|part| (*part).to_owned()).collect());
        self.steps.push(Step { stage, said: said.into(), key });
    }
}

fn walk(policy: &Policy, asked: &Asked, out: &mut Explained) -> Result<(), Stop> {
    let headers = &asked.headers;
    let preflight = cors::preflight(&asked.method, headers);
    let host = head::read(Version::HTTP_11, &asked.method, &asked.target, headers).map_err(Stop::Head)?;
    let path = path::normalize(asked.target.path()).map_err(Stop::Path)?;
    out.note("path", format!("{path} at {host}"), &[]);

    let id = policy.table.find(host, &path, preflight.as_ref().unwrap_or(&asked.method)).map_err(Stop::Route)?;
    let route = policy.route(id).ok_or(Stop::Internal("a route without a row"))?;
    let name = &*route.name;
    out.route = Some(name.into());
    out.note("route", name, &["routes", name, "path"]);
    let seen = route.worker_path.as_deref().unwrap_or(&path);
    reach(policy, route, (preflight.as_ref().unwrap_or(&asked.method), &path), out)?;

    let mut earned = route.cors.as_ref().map(|cors| cors.decide(headers));
    if route.shadow.cors
        && headers.contains_key(header::ORIGIN)
        && !earned.as_ref().is_some_and(cors::Earned::is_allowed)
    {
        out.tried("cors", Stop::Origin, name);
        earned = earned.map(|earned| earned.tried(route.shadow, headers));
    }
    if let Some(method) = preflight {
        earned.filter(cors::Earned::is_allowed).ok_or(Stop::Origin)?;
        out.note("cors", format!("the page may send {method}"), &["routes", name, "cors"]);
        return Ok(());
    }
    if let Some(earned) = earned.filter(|_| headers.contains_key(header::ORIGIN)) {
        let may = if earned.is_allowed() { "the page may read the answer" } else { "the page may not read the answer" };
        out.note("cors", may, &["routes", name, "cors"]);
    }

    let certificate = match &asked.caller {
        Caller::Certificate(name) => policy.authenticator.certificates().example(name),
        _ => None,
    };
    let facts = Facts {
        method: &asked.method,
        host,
        path: &path,
        sent_path: asked.target.path(),
        query: asked.target.query(),
        headers,
        certificate: certificate.as_ref(),
        address: asked.address,
        now: asked.now,
    };
    let principal = match who(policy, route, asked, &facts) {
        Err(stop) if route.shadow.authenticate => {
            out.tried("authenticate", stop, name);
            Principal::anonymous()
        }
        decided => decided?,
    };
    out.principal = Some(principal.id.to_string());
    out.note(
        "authenticate",
        format!("{} by {}", principal.id, principal.scheme.as_str()),
        &["routes", name, "authenticate"],
    );
    let read = entitled(policy, route, &principal, (&facts, asked), out)?;
    let size = match read {
        Some(size) => size,
        None => judge(route, asked, &path, out)?.0,
    };
    limits(route, &principal, size, out)?;
    match &route.destination {
        Destination::Pool(position) => {
            let pool = policy.pools.get(*position).map_or("", |pool| pool);
            answer(route, &principal, out);
            out.note("forward", format!("to the pool {pool}, as {} {seen}", asked.method), &["routes", name, "pool"]);
        }
        Destination::Own(_) | Destination::Fernet(_) => {
            out.note("answer", "the gateway itself", &["routes", name, "builtin"]);
        }
    }
    Ok(())
}

/// Holds the path to what the route opens of its worker.
fn reach(policy: &Policy, route: &Route, (method, path): (&Method, &str), out: &mut Explained) -> Result<(), Stop> {
    route.reach.decide(method, path).map_err(Stop::Closed)?;
    let Destination::Pool(position) = route.destination else { return Ok(()) };
    if route.profile() == Profile::Plain {
        return Ok(());
    }
    let pool = policy.pools.get(position).map_or("", |pool| pool);
    match route.profile().knows(method, route.worker_path.as_deref().unwrap_or(path)) {
        Some(what) => {
            let said = format!("{} of {}", what.noun(), route.profile().name());
            out.note("profile", said, &["pools", pool, "profile"]);
        }
        None => out.note("profile", "opened beyond the profile", &["routes", &route.name, "opens"]),
    }
    Ok(())
}

/// Whether the principal may; gives back how large the body is, where it had to be read for that.
fn entitled(
    policy: &Policy,
    route: &Route,
    principal: &Principal,
    (facts, asked): (&Facts<'_>, &Asked),
    out: &mut Explained,
) -> Result<Option<Size>, Stop> {
    let name = &*route.name;
    let unread = route.authorize.needs_model() && route.model.is_in_body(facts.path);
    let (model, version) = (route.model.of(facts.path), route.version.of(facts.path));
    let wanted = authorize::Asked { model, unread, version, facts };
    let mut read = None;
    if unread {
        // Who can't call it for any model learns that first, as on the journey.
        match route.authorize.decide(principal, &wanted) {
            Err(refusal) if !route.shadow.authorize => return Err(refused_right(refusal, principal, policy)),
            _ => read = Some(judge(route, asked, facts.path, out)?),
        }
    }
    let model = read.as_ref().map_or(model, |(_, model)| model);
    let is_unread = unread && asked.body.is_none() && !is_bodiless(&asked.method);
    let wanted = authorize::Asked { model, unread: is_unread, ..wanted };
    let permit = match route.authorize.decide(principal, &wanted) {
        Ok(permit) => permit,
        Err(refusal) => {
            let stop = refused_right(refusal, principal, policy);
            let Some(permit) = Permit::tried(route.shadow) else { return Err(stop) };
            out.tried("authorize", stop, name);
            permit
        }
    };
    let opened = match permit.role() {
        _ if permit.is_tried() => "it is open while its rule is only tried out".into(),
        Some(role) => format!("the role {} opens it", policy.vocabulary.roles.name(role)),
        None if route.authenticate.is_anonymous() => "it is open to everybody".into(),
        None => "it is open to whoever has proven who they are".into(),
    };
    out.right = permit.right().map(ToString::to_string);
    match permit.right() {
        Some(right) => out.note("authorize", format!("{opened}, by the right {right}"), &["rights", right]),
        None => out.note("authorize", opened, &["routes", name, "authorize"]),
    }

    Ok(read.map(|(size, _)| size))
}

fn refused_right(refusal: authorize::Refusal, principal: &Principal, policy: &Policy) -> Stop {
    Stop::Authorize(authorize::Denied::of(refusal, principal, &policy.vocabulary))
}

/// Who it is: somebody named, held against what the route takes, or whom the headers prove.
fn who(policy: &Policy, route: &Route, asked: &Asked, facts: &Facts<'_>) -> Result<Arc<Principal>, Stop> {
    let (authenticator, words) = (&policy.authenticator, &policy.vocabulary);
    let refused = |refusal| {
        let challenges = authenticator.challenges(&route.authenticate, &refusal).collect();
        Stop::Authenticate(refusal, challenges)
    };
    if let Authenticate::Anonymous(principal) = &route.authenticate {
        return Ok(Arc::clone(principal));
    }
    let [api_key, jwt, mtls] =
        [Accepted::ApiKey, Accepted::Jwt, Accepted::Mtls].map(|scheme| route.authenticate.takes(scheme));
    let missing = || refused(authenticate::Refusal::Missing);
    let named = |id: &str, held| {
        let scopes = words.scopes.set(asked.scopes.iter().map(String::as_str));
        let principal = words.principal(Scheme::Jwt, id, held, scopes, words.claims.met(&asked.claims));
        principal.map(Arc::new).ok_or_else(missing)
    };
    match &asked.caller {
        Caller::Headers => {
            let seen = SeenTokens::default();
            let known = Known {
                keys: &Nothing,
                introspections: &Nothing,
                revocations: &Nothing,
                seen: &seen,
                api_keys: &Nothing,
            };
            authenticator.decide(&route.authenticate, facts, words, known).or_else(|undecided| match undecided {
                Undecided::Refused(refusal) => Err(refused(refusal)),
                // Nobody has used it here.
                Undecided::Once(unspent) => Ok(unspent.principal),
                // What others keep is not asked for here.
                Undecided::Wanting(_) => Err(refused(authenticate::Refusal::IssuerUnavailable)),
            })
        }
        Caller::ApiKey(id) if api_key => {
            let held = authenticator.api_keys().holder(id, asked.address, asked.now);
            held.map_err(|refusal| refused(authenticate::Refusal::ApiKey(refusal)))
        }
        Caller::Certificate(_) if mtls => {
            let refused = |refusal| refused(authenticate::Refusal::Certificate(refusal));
            let shown = facts.certificate.ok_or_else(|| refused(certificate::Refusal::Unknown))?;
            authenticator.certificates().decide(shown, asked.now).map_err(refused)
        }
        Caller::Signer(id) if route.authenticate.takes(Accepted::Signature) => {
            let holder = authenticator.signers().holder(id, asked.now);
            holder.map_err(|refusal| refused(authenticate::Refusal::Signature(refusal)))
        }
        Caller::User(name) if jwt => {
            let held = policy.issuer.as_ref().and_then(|issuer| issuer.roles_of(name)).ok_or_else(missing)?;
            named(&format!("user:{name}"), held)
        }
        Caller::Roles(list) => {
            let held = list.iter().filter_map(|name| words.roles.find(name)).fold(RoleSet::default(), RoleSet::with);
            named(&format!("role:{}", list.join(",")), held)
        }
        Caller::ApiKey(_) | Caller::Certificate(_) | Caller::Signer(_) | Caller::User(_) => Err(missing()),
    }
}

fn is_bodiless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS)
}

/// Judges the body; says how large it is for limits, and which model it names.
fn judge(route: &Route, asked: &Asked, path: &str, out: &mut Explained) -> Result<(Size, String), Stop> {
    let body = asked.body.as_deref().unwrap_or_default();
    let nothing = Ok((Size::default(), String::new()));
    if matches!(route.destination, Destination::Own(_)) {
        return Ok((Size { bytes: body.len() as u64, rows: 1 }, String::new()));
    }
    let name = &*route.name;
    let Some(rule) = &route.body else {
        return if body.is_empty() { nothing } else { Err(Stop::Body(body::Refusal::NotTaken)) };
    };
    if body.is_empty() && is_bodiless(&asked.method) {
        return nothing;
    }
    if asked.body.is_none() {
        out.note("body", "not looked at, because none was given", &["routes", name, "body"]);
        return nothing;
    }
    let mut headers = asked.headers.clone();
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    let mut size = Size { bytes: body.len() as u64, rows: 1 };
    let mut model = String::new();
    let look = |value: &Value| {
        let (rows, named) = route.read(path, value);
        (size.rows, model) = (rows, named.to_owned());
    };
    let sealed = route.sealed.as_deref();
    let judged = rule.decide_head(&headers).and_then(|()| {
        let opened = sealed.map(|sealed| sealed.open_request(body, rule.depth(), asked.now)).transpose()?;
        let opened = opened.unwrap_or_default();
        let read = opened.body.as_deref().unwrap_or(body);
        let checked = rule.decide_and_look(&headers, read, Active::Unasked, look);
        checked.map(|checked| (checked, opened.count())).map_err(|refusal| opened.redact(refusal))
    });
    let (checked, opened) = match judged {
        Ok(judged) => judged,
        Err(refusal) if route.shadow.body && !matches!(refusal, body::Refusal::TooLarge { .. }) => {
            out.tried("body", Stop::Body(refusal), name);
            return Ok((size, String::new()));
        }
        Err(refusal) => return Err(Stop::Body(refusal)),
    };
    if let Some(sealed) = sealed.filter(|_| opened > 0) {
        out.note("body", format!("opened by {}: {opened}", sealed.name), &["sealed", &sealed.name]);
    }
    if let Some(names) = checked.flagged() {
        out.note("body", format!("outside what the model knows: {names}"), &["routes", name, "body", "guard"]);
    }
    if let Some(asked) = rule.asked() {
        let said = format!(
            "guard {}: not looked at; its card is what the workers answer at {}, which a running gateway alone knows (GET \
             /pools on its admin listener)",
            asked.guard, asked.path
        );
        out.note("guard", said, &["guards", &asked.guard, "card_path"]);
    }
    let cleaned =
        checked.into_rewritten().map_or_else(String::new, |rewritten| format!(", cleaned: {}", rewritten.note));
    out.note("body", format!("{} bytes, taken{cleaned}", body.len()), &["routes", name, "body"]);
    if !model.is_empty() {
        out.note("body", format!("asks the model {model}"), &["routes", name, "pool"]);
    }
    Ok((size, model))
}

/// Says what becomes of the answer.
fn answer(route: &Route, principal: &Principal, out: &mut Explained) {
    let name = &*route.name;
    if let Some(sealed) = &route.sealed {
        let answer = match sealed.for_answer(principal) {
            Some(Direction::Encrypt) => ", and this caller gets the answer sealed",
            Some(Direction::Decrypt) => ", and this caller gets the answer opened",
            None => "",
        };
        out.note("seal", format!("{}{answer}", sealed.describe()), &["sealed", &sealed.name]);
    }
    if let Some(declared) = &route.declared {
        out.note("answer", format!("held to {}", declared.describe()), &["routes", name, "answer"]);
    }
    if let Some(rule) = route.answers.rule(principal) {
        out.note("answer", format!("shaped by {}", rule.name), &["answers", &rule.name]);
    }
}

/// Names the limits, and refuses what none of them ever admits.
fn limits(route: &Route, principal: &Principal, size: Size, out: &mut Explained) -> Result<(), Stop> {
    let demands: Vec<Demand<'_>> =
        route.limits.windows.iter().map(|it| Demand::new(it, Some(principal), size)).collect();
    let mut decision = Decision::new(true, 0);
    for demand in &demands {
        let (limit, quota) = (demand.limit, demand.rate.quota);
        let full = demand.cost > quota;
        decision.admitted &= !(full && demand.is_enforced());
        decision.push(Standing { full, ..Standing::default() });
        let how = match limit.when_full {
            WhenFull::Refuse => "",
            WhenFull::Throttle { .. } => ", then held",
            WhenFull::Shadow => ", only tried out",
        };
        let seconds = limit.rule.window / 1_000_000;
        let said =
            format!("{}: costs {} of {quota} {} in {seconds} s{how}", limit.name, demand.cost, limit.cost.noun());
        out.note("limit", said, &["limits", &limit.name]);
        out.limits.push((limit.name.to_string(), quota));
    }
    for limit in &route.limits.in_flight {
        let said = format!("{}: {} requests in flight", limit.name, limit.rate(Some(principal)).quota);
        out.note("limit", said, &["limits", &limit.name]);
    }
    Admission::from_decision(&demands, &decision)
        .map(|_| ())
        .map_err(|refusal| Stop::Limit(crate::edge::counter::Denied::Full(refusal)))
}
