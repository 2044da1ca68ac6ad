//! Reads `[routes.NAME]`: what a route names of everything that is defined, and what does not go together.

use std::collections::HashMap;
use std::sync::Arc;

use figment::value::Value;

use super::answer::declared::Declared;
use super::answer::{AnswerRules, Answers};
use super::authenticate::{Accepted, Authenticate, Authenticator};
use super::authorize::{Authorize, Rights, Vocabulary};
use super::body::{self, BodyRule};
use super::cors::Cors;
use super::limit::cost::Cost;
use super::limit::scope::By;
use super::limit::{self, Counts, Limit, Limits, RouteLimits};
use super::profile::{Profile, Reach};
use super::sealed::Sealings;
use super::shadow::Shadow;
use super::token::{Endpoint, TokenIssuer};
use super::{CardOf, Destination, Model, Route, fernet, path};
use crate::settings::{Named as _, Section, Setting};
use crate::types::Name;

/// A word of a pool's table. What is wrong there is said where the pools are read.
pub(super) fn pool_word<'a>(root: &Section<'a>, pool: &str, key: &str) -> Option<&'a str> {
    root.section("pools")?.section(pool)?.word(key)
}

/// What a pool's workers speak.
pub(super) fn profile_of(root: &Section<'_>, pool: &str) -> Profile {
    let word = pool_word(root, pool, "profile").unwrap_or_default();
    let found = Profile::NAMES.iter().find(|(name, _)| *name == word);
    found.map_or(Profile::Plain, |(_, profile)| *profile)
}

/// What a route can name in place of a pool.
#[derive(Clone, Copy)]
enum Builtin {
    Own(Endpoint),
    Fernet(fernet::Direction),
}

impl Setting for Builtin {
    const SHAPE: &'static str =
        "\"token\", \"revoke\", \"introspect\", \"jwks\", \"metadata\", \"encrypt\" or \"decrypt\"";

    fn read(value: &Value) -> Result<Self, String> {
        let direction = fernet::Direction::read(value).map(Self::Fernet);
        direction.or_else(|_| Endpoint::read(value).map(Self::Own))
    }
}

/// What a route may name, while it is compiled.
pub(super) struct Parts<'a> {
    pub(super) pools: &'a [Name],
    /// Which of them speak HTTP/2.
    pub(super) http2: Vec<bool>,
    /// What they speak.
    pub(super) profiles: Vec<Profile>,
    pub(super) words: &'a Vocabulary,
    pub(super) rights: &'a Rights,
    pub(super) answers: &'a AnswerRules,
    pub(super) sealed: &'a Sealings,
    pub(super) authenticator: &'a Authenticator,
    pub(super) limits: &'a Limits,
    pub(super) cors: &'a HashMap<Name, Arc<Cors>>,
    pub(super) schemas: &'a body::Schemas,
    pub(super) guards: &'a body::Guards,
    pub(super) tokens: bool,
    pub(super) fernet: bool,
    pub(super) issuer: Option<&'a TokenIssuer>,
    pub(super) default_authenticate: Option<Authenticate>,
    pub(super) default_limits: Option<Vec<Arc<Limit>>>,
}

impl Parts<'_> {
    pub(super) fn route(&self, section: &Section<'_>) -> Option<Route> {
        let destination = self.destination(section);
        let worker_path = section.optional::<String>("worker_path");
        if let Some(path) = &worker_path
            && path::normalize(path).ok().as_deref() != Some(path)
        {
            section.mistake("worker_path", "is not a path in its normal form", "write one such as \"/predict\"");
        }
        let cors = section.optional::<String>("cors").and_then(|name| {
            let found = self.cors.get(name.as_str()).cloned();
            if found.is_none() {
                let defined: Vec<&str> = self.cors.keys().map(|name| &**name).collect();
                section.undefined("cors", None, ("CORS rule", "cors"), &name, &defined);
            }
            found
        });
        let authenticate = if section.has("authenticate") {
            Authenticate::compile(section, self.authenticator)
        } else {
            if self.default_authenticate.is_none() {
                section.missing(
                    "authenticate",
                    "write authenticate = [\"api_key\", \"jwt\"] here or under [defaults], or \"anonymous\" for everybody",
                );
            }
            self.default_authenticate.clone()
        };
        let authorize = Authorize::compile(section, self.words, self.rights, authenticate.as_ref());
        let limits =
            if section.has("limits") { limit::references(section, self.limits) } else { self.default_limits.clone() };
        if limits.is_none() {
            section.missing("limits", "name limits here or under [defaults]; `limits = []` says that there is none");
        }
        let limits = limits.unwrap_or_default();
        if let Some(authenticate) = &authenticate
            && authenticate.is_anonymous()
            && let Some(limit) = limits.iter().find(|limit| !limit.scope.is_for_anybody())
        {
            let named = [(By::Principal, "principal"), (By::ApiKey, "API key"), (By::Role, "role")];
            let by = named.iter().find(|(by, _)| limit.scope.has(by)).map_or("principal", |(_, name)| name);
            let reason = format!("names {:?}, which counts by {by}, and this route proves none", &*limit.name);
            section.mistake("limits", reason, "use a limit by \"address\" or \"route\"");
        }
        let reach = Reach::compile(section, self.profile(destination.as_ref()));
        let grpc = self.grpc(section, destination.as_ref());
        let is_oip = reach.profile() == Profile::Oip && !grpc && reach.opens().is_empty();
        let body = self.body(section, destination.as_ref(), is_oip);
        let declared = self.declared(section, destination.as_ref(), body.as_ref());
        let sealed = self.sealed.reference(section, body.as_ref());
        let is_signed = authenticate.as_ref().is_some_and(|it| it.takes(Accepted::Signature));
        if is_signed && is_streamed(destination.as_ref(), body.as_ref(), grpc) {
            let reason = "takes signed requests, and the body here is never held in memory whole, as its digest needs";
            section.mistake("authenticate", reason, "lower the body's `max` to 16MiB, or take other credentials");
        }
        let reads = body.as_ref().is_some_and(BodyRule::is_json);
        let [model, version] = ["model", "version"].map(|key| named(section, key, reach.profile(), reads));
        if authorize.as_ref().is_some_and(Authorize::needs_model) && matches!(model, Model::Unnamed) {
            let reason = "names one that is for some models, and this route names none";
            section.mistake("rights", reason, "write `model = \"NAME\"`, or {model} in the path");
        }
        for limit in &limits {
            check(section, limit, destination.as_ref(), body.as_ref(), &model);
        }
        let waits = waits_for_model(&model, authorize.as_ref(), &limits);
        let mut rows = limits.iter().filter(|limit| matches!(limit.cost, Cost::Rows(_)));
        if let Some(first) = rows.next()
            && let Some(other) = rows.find(|limit| limit.cost != first.cost)
        {
            let reason =
                format!("names {:?} and {:?}, which count rows in different places", &*first.name, &*other.name);
            section.mistake("limits", reason, "write the same `rows_at` in both");
        }
        if section.has("answers")
            && let Some(limit) = limits.iter().find(|limit| matches!(limit.cost, Cost::Answer(_)))
        {
            let reason = format!("stands beside the limit {:?}, which counts what the answer names", &*limit.name);
            section.mistake("answers", reason, "keep one of them: what is shaped may no longer name it");
        }
        let websocket = self.websocket(section, destination.as_ref());
        let answers = Answers::compile(section, self.answers, &self.words.roles);
        let shadow = tried_out(section, &reach, authorize.as_ref());
        Some(Route {
            name: section.name(),
            grpc,
            websocket,
            destination: destination?,
            worker_path: worker_path.map(Into::into),
            cors,
            authenticate: authenticate?,
            authorize: authorize?,
            limits: RouteLimits::new(limits, waits),
            model,
            version,
            body,
            card: None,
            sealed,
            declared,
            answers,
            reach,
            shadow,
        })
    }

    fn destination(&self, section: &Section<'_>) -> Option<Destination> {
        let (pool, builtin) = (section.optional::<String>("pool"), section.optional::<Builtin>("builtin"));
        match (pool, builtin) {
            (Some(name), None) => {
                let found = self.pools.iter().position(|pool| **pool == *name);
                if found.is_none() {
                    let defined: Vec<&str> = self.pools.iter().map(|name| &**name).collect();
                    section.undefined("pool", None, ("pool", "pools"), &name, &defined);
                }
                found.map(Destination::Pool)
            }
            (None, Some(Builtin::Own(endpoint))) => {
                self.check_endpoint(section, endpoint);
                Some(Destination::Own(endpoint))
            }
            (None, Some(Builtin::Fernet(direction))) => {
                if !self.fernet {
                    section.mistake(
                        "builtin",
                        "needs a key, and no [fernet] is defined",
                        "define [fernet], or remove the route",
                    );
                }
                for key in ["worker_path", "body"].into_iter().filter(|key| section.has(key)) {
                    section.mistake(key, "stands beside a builtin that has its own", "remove it");
                }
                Some(Destination::Fernet(direction))
            }
            (None, None) => {
                if !section.has("pool") && !section.has("builtin") {
                    section.missing("pool", "name the pool of workers that answers, or builtin = \"token\"");
                }
                None
            }
            (Some(_), Some(_)) => {
                section.mistake("builtin", "stands beside `pool`", "keep one of them");
                None
            }
        }
    }

    fn body(&self, section: &Section<'_>, destination: Option<&Destination>, is_oip: bool) -> Option<BodyRule> {
        if matches!(destination, Some(Destination::Fernet(_))) {
            return Some(BodyRule::small());
        }
        BodyRule::compile(section.section("body")?, self.schemas, self.guards, is_oip)
    }

    /// What the workers of a destination speak.
    fn profile(&self, destination: Option<&Destination>) -> Profile {
        let found = match destination {
            Some(Destination::Pool(position)) => self.profiles.get(*position).copied(),
            Some(Destination::Own(_) | Destination::Fernet(_)) | None => None,
        };
        found.unwrap_or_default()
    }

    /// Reads `[routes.NAME.answer]`, and finds what does not go with it.
    fn declared(
        &self,
        section: &Section<'_>,
        destination: Option<&Destination>,
        body: Option<&BodyRule>,
    ) -> Option<Declared> {
        let answer = section.section("answer")?;
        let declared = Declared::compile(&answer, self.schemas, body.is_some_and(BodyRule::is_json));
        answer.finish();
        let is_read = declared.as_ref().is_some_and(Declared::needs_whole);
        if matches!(destination, Some(Destination::Own(_) | Destination::Fernet(_))) {
            section.mistake("answer", "stands beside `builtin`, whose answers are the gateway's own", "remove it");
        }
        if is_read && section.or("grpc", false) {
            section.mistake("answer", "stands beside `grpc`, whose messages are not read", "write format = \"opaque\"");
        }
        if section.has("upgrade") {
            section.mistake(
                "answer",
                "stands beside `upgrade`, and nothing is read of a WebSocket",
                "remove one of them",
            );
        }
        declared
    }

    /// Reads `grpc`, and finds what does not go with it.
    fn grpc(&self, section: &Section<'_>, destination: Option<&Destination>) -> bool {
        let grpc = section.or("grpc", false);
        if !grpc {
            return false;
        }
        if section.has("answers") {
            section.mistake("answers", "stands beside `grpc`, whose messages are not read", "remove one of them");
        }
        match destination {
            Some(Destination::Pool(pool)) if self.http2.get(*pool) == Some(&false) => {
                let remedy = "write protocol = \"http2\" in the pool's table";
                section.mistake("grpc", "is written for a pool whose workers are spoken to with HTTP/1", remedy);
            }
            Some(Destination::Own(_) | Destination::Fernet(_)) => {
                section.mistake("grpc", "stands beside `builtin`", "remove it");
            }
            Some(Destination::Pool(_)) | None => {}
        }
        if section.all::<String>("methods").iter().any(|method| method != "POST") {
            section.mistake("methods", "has one that gRPC does not use", "write methods = [\"POST\"]");
        }
        grpc
    }

    /// Reads `upgrade`, and finds what does not go with it.
    fn websocket(&self, section: &Section<'_>, destination: Option<&Destination>) -> bool {
        let protocols = section.list::<String>("upgrade");
        for (index, protocol) in protocols.iter().filter(|(_, protocol)| protocol != "websocket") {
            let reason = format!("is {protocol:?}, which is not passed on");
            section.mistake_at("upgrade", *index, reason, "write \"websocket\", or remove it");
        }
        if protocols.is_empty() {
            return false;
        }
        if section.has("answers") {
            section.mistake(
                "answers",
                "stands beside `upgrade`, and nothing is read of a WebSocket",
                "remove one of them",
            );
        }
        match destination {
            Some(Destination::Pool(pool)) if self.http2.get(*pool) == Some(&true) => {
                let remedy = "use a pool with protocol = \"http1\"";
                section.mistake("upgrade", "is written for a pool whose workers are spoken to with HTTP/2", remedy);
            }
            Some(Destination::Own(_) | Destination::Fernet(_)) => {
                section.mistake("upgrade", "stands beside `builtin`", "remove it");
            }
            Some(Destination::Pool(_)) | None => {}
        }
        if !section.all::<String>("methods").iter().any(|method| method == "GET") {
            section.mistake("methods", "has no GET, which WebSockets begin with", "write methods = [\"GET\"]");
        }
        true
    }

    /// Finds what does not go with an endpoint of our own.
    fn check_endpoint(&self, section: &Section<'_>, endpoint: Endpoint) {
        let name = endpoint.name();
        if !self.tokens {
            let reason = format!("is \"{name}\", and no [token] is defined");
            section.mistake("builtin", reason, "define [token], or remove the route");
        }
        for key in ["worker_path", "body"].into_iter().filter(|key| section.has(key)) {
            section.mistake(key, format!("stands beside builtin = \"{name}\", which has its own"), "remove it");
        }
        let taken: &[&str] = if endpoint.takes_form() { &["POST"] } else { &["GET", "HEAD"] };
        if section.all::<String>("methods").iter().any(|method| !taken.contains(&method.as_str())) {
            let reason = format!("has a method that builtin = \"{name}\" does not answer");
            section.mistake("methods", reason, format!("write methods = {taken:?}"));
        }
        let Some(issuer) = self.issuer else { return };
        if matches!(endpoint, Endpoint::Revoke | Endpoint::Introspect) && !issuer.has_clients() {
            let reason = format!("is \"{name}\", which only clients may ask, and none is defined");
            section.mistake("builtin", reason, "define [clients.NAME], or remove the route");
        }
        if endpoint == Endpoint::Metadata && section.word("path").is_some_and(|path| path != issuer.metadata_path()) {
            let remedy = format!("write path = {:?} (RFC 8414 §3.1)", issuer.metadata_path());
            section.mistake("path", "is not where clients of this issuer look for its metadata", remedy);
        }
    }
}

/// The position of the card that a route's guard is told by workers, which is added where it is the first to want it.
pub(super) fn card(route: &Route, cards: &mut Vec<CardOf>) -> Option<usize> {
    let Destination::Pool(pool) = route.destination else { return None };
    let wanted = CardOf { asked: route.body.as_ref()?.asked()?.clone(), pool };
    let found = cards.iter().position(|card| *card == wanted);
    if found.is_none() {
        cards.push(wanted);
    }
    found.or(Some(cards.len() - 1))
}

/// Reads `model` or `version`, or finds `{model}` or `{version}` in the path, or knows where the protocol has it.
fn named(section: &Section<'_>, key: &str, profile: Profile, reads: bool) -> Model {
    if let Some(name) = section.optional::<String>(key) {
        return Model::Named(name.into());
    }
    let is_it = |part: &str| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) == Some(key);
    let segment = section.word("path").and_then(|path| path.split('/').skip(1).position(is_it));
    if let Some(segment) = segment {
        return Model::Segment(segment);
    }
    let is_model = key == "model";
    let target = section.word("worker_path").or_else(|| section.word("path")).unwrap_or_default();
    let (model, version) = profile.model(target);
    let name = if is_model { model } else { version };
    if !target.contains(['{', '*']) && !name.is_empty() {
        return Model::Named(name.into());
    }
    let is_open = section.word("worker_path").is_none() && target.contains(['{', '*']);
    match profile {
        Profile::Plain => Model::Unnamed,
        _ if is_model && profile.names_in_body() => {
            if reads {
                Model::InBody(profile)
            } else {
                Model::Unnamed
            }
        }
        _ if !is_open => Model::Unnamed,
        _ if is_model => Model::Model(profile),
        _ => Model::Version(profile),
    }
}

/// Reads what is only tried out, and finds who must not be let beyond what a profile knows.
fn tried_out(section: &Section<'_>, reach: &Reach, authorize: Option<&Authorize>) -> Shadow {
    let shadow = Shadow::compile(section);
    if reach.opens().is_empty() {
        return shadow;
    }
    if authorize.is_some_and(|authorize| !authorize.asks_for_somebody()) {
        let reason = "lets callers beyond predictions, and not only those with a role or right come here";
        section.mistake("opens", reason, "write authorize = [\"admin\"], or rights with roles or scopes");
    }
    if shadow.authenticate || shadow.authorize {
        let reason = "lets callers beyond predictions, while who may come here is only tried out";
        section.mistake("opens", reason, "remove `danger_shadow`");
    }
    shadow
}

/// Whether a route's body is never held in memory whole.
fn is_streamed(destination: Option<&Destination>, body: Option<&BodyRule>, grpc: bool) -> bool {
    let is_form = matches!(destination, Some(Destination::Own(endpoint)) if endpoint.takes_form());
    is_form || grpc || body.is_some_and(|body| body.max() > body::MOST_WHOLE)
}

/// Whether what hangs on the model waits for the body that names it.
fn waits_for_model(model: &Model, authorize: Option<&Authorize>, limits: &[Arc<Limit>]) -> bool {
    matches!(model, Model::InBody(_))
        && (authorize.is_some_and(Authorize::needs_model) || limits.iter().any(|limit| limit.scope.has(&By::Model)))
}

/// Finds what a limit counts and a route has not.
fn check(
    section: &Section<'_>,
    limit: &Limit,
    destination: Option<&Destination>,
    body: Option<&BodyRule>,
    model: &Model,
) {
    let is_token = matches!(destination, Some(Destination::Own(Endpoint::Token)));
    let is_own = matches!(destination, Some(Destination::Own(_) | Destination::Fernet(_)));
    let has_form = matches!(destination, Some(Destination::Own(endpoint)) if endpoint.takes_form());
    let scope = &limit.scope;
    let wrong = if scope.has(&By::User) && !is_token {
        Some(("by user, and only a token request names one", "use a limit by \"principal\""))
    } else if scope.has(&By::Model) && matches!(model, Model::Unnamed) {
        Some(("by model, and this route names none", "write model = \"NAME\", or {model} in its path"))
    } else if scope.has(&By::Model) && limit.in_flight && matches!(model, Model::InBody(_)) {
        let what = "requests in flight by model, which a body here names too late";
        Some((what, "count by \"principal\" or \"route\", or write model = \"NAME\""))
    } else if scope.has(&By::Pool) && is_own {
        Some(("by pool, and this route has none", "use a limit by \"route\""))
    } else if limit.counts == Counts::Failures && !has_form {
        Some(("failed log-ins, and this route has none", "name it at the route with builtin = \"token\""))
    } else if matches!(limit.cost, Cost::Rows(_)) && !body.is_some_and(BodyRule::is_json) {
        Some(("rows, and this route reads no JSON", "write [routes.NAME.body] with format = \"json\""))
    } else if limit.cost == Cost::Bytes && body.is_none() && !has_form {
        Some(("the body's bytes, and this route takes none", "write [routes.NAME.body]"))
    } else if limit.cost == Cost::Bytes && body.is_some_and(|body| body.max() > body::MOST_WHOLE) {
        let what = "the body's bytes, and this route takes bodies that can't be held in memory whole";
        Some((what, "lower the body's `max` to 16MiB, or use another limit"))
    } else if matches!(limit.cost, Cost::Answer(_)) && is_own {
        Some(("what a worker's answer names, and this route has no worker", "use another limit"))
    } else {
        None
    };
    if let Some((what, remedy)) = wrong {
        section.mistake("limits", format!("names {:?}, which counts {what}", &*limit.name), remedy);
    }
}
