//! The compiled policy: one row of stages for each route, replaced whole when it changes.
//!
//! Everything below is pure: no clock, socket, environment or randomness. A stage is a module that
//! answers one question, reads top-down (what people write, how it is compiled, how it decides, what
//! it refuses) and knows no other stage. `journey` alone knows their order.

pub mod agreement;
pub mod answer;
pub mod assertion;
pub mod authenticate;
pub mod authorize;
pub mod body;
mod compile;
pub mod cors;
pub mod facts;
pub mod fernet;
pub mod forwarded;
pub mod json;
pub mod limit;
pub mod path;
pub mod profile;
pub mod route;
pub mod sealed;
pub mod shadow;
pub mod token;
mod unknown;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Method};

use crate::settings::Section;
use crate::types::Name;

use answer::declared::Declared;
use answer::{AnswerRules, Answers};
use assertion::Assertion;
use authenticate::{Authenticate, Authenticator};
use authorize::{Authorize, Rights, Vocabulary};
use body::BodyRule;
use compile::{Parts, card, pool_word, profile_of};
use cors::Cors;
use forwarded::TrustedProxies;
use limit::cost;
use limit::{Limit, RouteLimits};
use profile::{Profile, Reach};
use route::{RouteId, RouteTable};
use sealed::{Sealed, Sealings};
use shadow::Shadow;
use token::{Endpoint, TokenIssuer};

/// Where a route's requests go.
#[derive(Debug)]
pub enum Destination {
    /// To a worker of the pool at this position.
    Pool(usize),
    /// To one of the gateway's own OAuth2 endpoints.
    Own(Endpoint),
    /// To the gateway's own sealing and opening of texts.
    Fernet(fernet::Direction),
}

/// One route, compiled.
#[derive(Debug)]
pub struct Route {
    /// Its name in TOML, logs and metrics.
    pub name: Name,
    /// Where allowed requests go.
    pub destination: Destination,
    /// The path that the worker sees, where it differs from the client's.
    pub worker_path: Option<Box<str>>,
    /// Which pages may read its answers.
    pub cors: Option<Arc<Cors>>,
    /// Which credentials it takes.
    pub authenticate: Authenticate,
    /// Who may call it.
    pub authorize: Authorize,
    /// How often, and how much.
    pub limits: RouteLimits,
    /// The model that is asked, for limits that count by it and rights that are for some.
    pub model: Model,
    /// And its version.
    pub version: Model,
    /// Which of its worker's paths it opens.
    pub reach: Reach,
    /// Which bodies it takes; none where absent.
    pub body: Option<BodyRule>,
    /// The position of the card that its guard is told by workers, where it is.
    pub card: Option<usize>,
    /// Whether it is gRPC: over HTTP/2 on both sides, with trailers, and refusals as gRPC says them.
    pub grpc: bool,
    /// Whether clients may ask for a WebSocket.
    pub websocket: bool,
    /// Which of its fields are sealed for whom.
    pub sealed: Option<Arc<Sealed>>,
    /// What its workers answer, where that is declared: anything else is not passed on.
    pub declared: Option<Declared>,
    /// How much of the answer is shown to whom.
    pub answers: Answers,
    /// Which of these rules are only tried out.
    pub shadow: Shadow,
}

/// Where the name of the model stands, or its version.
#[derive(Debug)]
pub enum Model {
    /// Nowhere.
    Unnamed,
    /// In the policy.
    Named(Box<str>),
    /// In the path, at the segment with this number.
    Segment(usize),
    /// In the path, where the protocol has the model.
    Model(Profile),
    /// In the path, where the protocol has the model's version.
    Version(Profile),
    /// In the path or else in the body, where the protocol has it.
    InBody(Profile),
}

impl Model {
    /// The name, of a request with this path; empty where there is none.
    #[must_use]
    pub fn of<'a>(&'a self, path: &'a str) -> &'a str {
        match self {
            Self::Unnamed => "",
            Self::Named(name) => name,
            Self::Segment(index) => path.split('/').nth(index + 1).unwrap_or_default(),
            Self::Model(profile) | Self::InBody(profile) => profile.model(path).0,
            Self::Version(profile) => profile.model(path).1,
        }
    }

    /// Whether the body has the name, for a request with this path.
    #[must_use]
    pub fn is_in_body(&self, path: &str) -> bool {
        matches!(self, Self::InBody(_)) && self.of(path).is_empty()
    }
}

impl Route {
    /// The protocol of its workers.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.reach.profile()
    }

    /// Whether a worker's refusal is held to the form of its protocol.
    #[must_use]
    pub fn shapes_refusals(&self, method: &Method) -> bool {
        self.profile().has_errors() && !self.grpc && *method != Method::HEAD
    }

    /// What is to be known of a body that is read, for a request with this path: its rows, and the model that it names.
    #[must_use]
    pub fn read<'b>(&self, path: &str, body: &'b serde_json::Value) -> (u64, &'b str) {
        let pointer = self.limits.rows_at.as_deref();
        let seen = self.worker_path.as_deref().unwrap_or(path);
        let rows = if pointer.is_none() { self.profile().rows(seen, body) } else { None };
        let model = if self.model.is_in_body(path) { self.profile().model_of(body) } else { "" };
        (rows.unwrap_or_else(|| cost::rows(body, pointer)), model)
    }
}

/// A card that workers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardOf {
    /// By which guard, and where.
    pub asked: body::Asked,
    /// The position of the pool whose workers are asked.
    pub pool: usize,
}

/// What the gateway shows of itself as an issuer of tokens.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The JWK Set.
    pub jwks: Bytes,
    /// The metadata.
    pub metadata: Bytes,
}

/// Everything that decides about requests, immutable.
#[derive(Debug)]
pub struct Policy {
    /// Host, path and method to route.
    pub table: RouteTable,
    /// The routes by [`RouteId`].
    pub routes: Vec<Route>,
    /// Credentials to principals.
    pub authenticator: Authenticator,
    /// The gateway's own tokens, where it issues any.
    pub issuer: Option<TokenIssuer>,
    /// What texts are sealed with, where they are.
    pub fernet: Option<Arc<fernet::Fernet>>,
    /// What workers are told of callers with a signature, where they are.
    pub assertion: Option<Assertion>,
    /// The gateway's public keys and metadata, as they are shown.
    pub documents: Documents,
    /// What roles, scopes and claims mean.
    pub vocabulary: Vocabulary,
    /// Peers whose word about the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// The limits, in their order.
    pub limits: Box<[Arc<Limit>]>,
    /// The pools' names.
    pub pools: Box<[Name]>,
    /// The cards that workers are asked for.
    pub cards: Box<[CardOf]>,
}

impl Policy {
    /// Reads the policy's part of the configuration. `pools` are the names that routes may send to.
    ///
    /// Mistakes are noted in the section; `None` only says that there were some.
    #[must_use]
    pub fn compile(root: &Section<'_>, pools: &[Name]) -> Option<Self> {
        let vocabulary = Vocabulary::compile(root);
        let roles = &vocabulary.roles;
        let issuer = root.section("token").and_then(|section| TokenIssuer::compile(section, root, roles));
        if !root.has("token") && root.has("clients") {
            root.mistake("clients", "stands here without [token], so no client could get a token", "define [token]");
        }
        let defaults = root.section_or_empty("defaults");
        let limits = limit::compile_all(root, roles.names(), defaults.or("x_ratelimit", false));
        let authenticator = Authenticator::compile(root, &vocabulary, &limits, issuer.as_ref());
        let assertion = root.section("assertion").and_then(|section| {
            let assertion = Assertion::compile(&section, pools);
            section.finish();
            assertion
        });
        let fernet = root.section("fernet").and_then(|section| {
            let fernet = fernet::Fernet::compile(&section);
            section.finish();
            fernet.map(Arc::new)
        });
        let sealed = Sealings::compile(root, fernet.as_ref(), roles);
        let rights = Rights::compile(root, &vocabulary);
        let answers = AnswerRules::compile(root);
        let schemas = body::Schemas::compile(root);
        let guards = body::Guards::compile(root);
        let client_address = root.section_or_empty("client_address");
        let trusted_proxies = TrustedProxies::compile(&client_address);
        client_address.finish();

        let cors = cors::compile_all(root, authenticator.api_key_header(), &limit::exposed(&limits));
        let default_authenticate = authenticate::Authenticate::compile(&defaults, &authenticator);
        let default_limits = limit::references(&defaults, &limits);
        let default_hosts = route::hosts(&defaults);
        defaults.finish();

        let parts = Parts {
            pools,
            http2: pools.iter().map(|name| pool_word(root, name, "protocol") == Some("http2")).collect(),
            profiles: pools.iter().map(|name| profile_of(root, name)).collect(),
            words: &vocabulary,
            rights: &rights,
            answers: &answers,
            sealed: &sealed,
            authenticator: &authenticator,
            limits: &limits,
            cors: &cors,
            schemas: &schemas,
            guards: &guards,
            tokens: root.has("token"),
            fernet: root.has("fernet"),
            issuer: issuer.as_ref(),
            default_authenticate,
            default_limits,
        };
        let mut own_paths: Vec<(Endpoint, String)> = Vec::new();
        let mut table = RouteTable::default();
        let (mut routes, mut cards) = (Vec::new(), Vec::new());
        for section in root.sections("routes") {
            let id = RouteId::new(routes.len());
            let matched = route::Match::compile(&section, default_hosts.as_deref());
            let route = parts.route(&section);
            if let Some(Route { destination: Destination::Own(endpoint), .. }) = &route
                && let Some(path) = section.word("path")
            {
                own_paths.push((*endpoint, path.to_owned()));
            }
            if let (Some(matched), Some(mut route)) = (matched, route) {
                route.card = card(&route, &mut cards);
                table.add(&section, matched, id);
                routes.push(route);
            }
            section.finish();
        }
        if !root.has("routes") {
            root.missing("routes", "define at least one: [routes.NAME]; what no route names is refused");
        }
        table.seal();
        let mut limits: Vec<Arc<Limit>> = limits.into_values().collect();
        limits.sort_by_key(|limit| limit.index);
        let (limits, pools) = (limits.into(), pools.into());
        let documents = issuer.as_ref().map_or_else(Documents::default, |issuer| {
            let path =
                |wanted| own_paths.iter().find(|(endpoint, _)| *endpoint == wanted).map(|(_, path)| path.clone());
            Documents { jwks: issuer.jwks().into(), metadata: issuer.metadata(path).into() }
        });
        Some(Self {
            table,
            routes,
            authenticator,
            issuer,
            fernet,
            assertion,
            documents,
            vocabulary,
            trusted_proxies,
            limits,
            pools,
            cards: cards.into(),
        })
    }

    /// The route of an id that this policy's table gave.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.index())
    }

    /// The header that API keys are read from.
    #[must_use]
    pub fn api_key_header(&self) -> &HeaderName {
        self.authenticator.api_key_header()
    }
}
