//! Which route does a request match? Host, path and method, from an allow-list.
//!
//! Source: RFC 9110 §7.4 and §15.5.6. Anything that no route names is 404, or 405 where only the method
//! is wrong. Never guesses: the path is in its one normal form before it comes here.

use std::collections::HashMap;

use http::Method;

use super::path;
use crate::settings::Section;

/// A route's position in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(u16);

impl RouteId {
    /// The id at `index`; positions past 65,535 share the last, which no policy reaches.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// The position.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Reads `hosts`: the authorities that a route answers for, all where absent.
#[must_use]
pub fn hosts(section: &Section<'_>) -> Option<Vec<Box<str>>> {
    if !section.has("hosts") {
        return None;
    }
    let mut hosts = Vec::new();
    for (index, host) in section.list::<String>("hosts") {
        let plain = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._[]:".contains(&b));
        if !plain || (host.contains(':') && !host.starts_with('[')) {
            let reason = format!("is {host:?}, which is not a host name in lower case without a port");
            section.mistake_at("hosts", index, reason, "write it such as \"api.example.com\"");
        }
        hosts.push(host.into_boxed_str());
    }
    if hosts.is_empty() {
        section.mistake(
            "hosts",
            "has no host, so nothing could match",
            "name a host, or remove the key to match every host",
        );
    }
    Some(hosts)
}

/// What a route matches.
#[derive(Debug)]
pub struct Match {
    hosts: Option<Box<[Box<str>]>>,
    path: Pattern,
    methods: Box<[Method]>,
}

impl Match {
    /// Reads `hosts`, `path` and `methods`.
    #[must_use]
    pub fn compile(section: &Section<'_>, default_hosts: Option<&[Box<str>]>) -> Option<Self> {
        let hosts = hosts(section).or_else(|| default_hosts.map(<[_]>::to_vec));
        let path: Option<String> = section.required("path", "write the path that clients call, such as \"/predict\"");
        let mut methods = Vec::new();
        for (index, name) in section.list::<String>("methods") {
            match Method::from_bytes(name.as_bytes()) {
                Ok(Method::CONNECT | Method::TRACE) => {
                    let reason = format!("is {name}, which is never forwarded");
                    section.mistake_at("methods", index, reason, "remove it");
                }
                Ok(method) if name.bytes().all(|b| b.is_ascii_uppercase()) => methods.push(method),
                _ => {
                    let reason = format!("is {name:?}, which is not a method in upper case");
                    section.mistake_at("methods", index, reason, "write one such as \"POST\"");
                }
            }
        }
        if methods.is_empty() {
            section.missing("methods", "list them: methods = [\"POST\"]");
        }
        let path = path.and_then(|path| Pattern::compile(section, &path))?;
        Some(Self { hosts: hosts.map(Into::into), path, methods: methods.into() })
    }

    /// Its path, as it is written.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path.text
    }

    /// Its methods.
    #[must_use]
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Its hosts; `None` where it answers for all.
    #[must_use]
    pub fn hosts(&self) -> Option<&[Box<str>]> {
        self.hosts.as_deref()
    }

    /// Whether both match the same path, and either both name hosts or neither does.
    fn is_beside(&self, other: &Self) -> bool {
        self.path.segments == other.path.segments && self.hosts.is_some() == other.hosts.is_some()
    }

    fn takes_host(&self, host: &str) -> bool {
        // A host is compared without its port: the listener decides which ports there are.
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|h| h.eq_ignore_ascii_case(without_port(host))))
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rfind([':', ']']) {
        Some(at) if authority.as_bytes().get(at) == Some(&b':') => authority.get(..at).unwrap_or(authority),
        _ => authority,
    }
}

/// A path as a route writes it: exact, or with `{name}` for one segment and a last `*` for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: Box<str>,
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    // In order of precedence: what says more matches first.
    Literal(Box<str>),
    One,
    Rest,
}

impl Pattern {
    fn compile(section: &Section<'_>, text: &str) -> Option<Self> {
        let remedy = "write a path such as \"/predict\", \"/models/{name}/predict\" or \"/v2/*\"";
        let mut segments = Vec::new();
        let parts: Vec<&str> = text.strip_prefix('/').map(|rest| rest.split('/').collect()).unwrap_or_default();
        for (index, part) in parts.iter().enumerate() {
            segments.push(match *part {
                "*" if index + 1 == parts.len() => Segment::Rest,
                part if part.len() > 2 && part.starts_with('{') && part.ends_with('}') => Segment::One,
                part => Segment::Literal(part.into()),
            });
        }
        let probe: String = segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                Segment::One | Segment::Rest => "/x".into(),
            })
            .collect();
        let stray_star = segments.iter().any(|s| matches!(s, Segment::Literal(text) if text.contains('*')));
        if stray_star || path::normalize(&probe).ok().as_deref() != Some(probe.as_str()) {
            section.mistake("path", format!("is {text:?}, which is not a path in its normal form"), remedy);
            return None;
        }
        Some(Self { text: text.into(), segments: segments.into() })
    }

    fn is_exact(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    fn matches(&self, path: &str) -> bool {
        let mut parts = path.strip_prefix('/').unwrap_or_default().split('/');
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Literal(text), Some(part)) if **text == *part => {}
                (Segment::One, Some(part)) if !part.is_empty() => {}
                (Segment::Rest, Some(_)) => return true,
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

/// All routes, ready to be searched.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Vec<(Match, RouteId)>>,
    patterns: Vec<(Match, RouteId)>,
}

impl RouteTable {
    /// Adds a route. One that could never be reached because another takes all of it is a mistake.
    pub fn add(&mut self, section: &Section<'_>, matched: Match, id: RouteId) {
        let others = self.exact.values().flatten().chain(&self.patterns);
        let clash = others.map(|(other, _)| other).find(|other| {
            other.path.segments == matched.path.segments
                && other.methods.iter().any(|method| matched.methods.contains(method))
                && match (&other.hosts, &matched.hosts) {
                    (Some(theirs), Some(ours)) => theirs.iter().any(|host| ours.contains(host)),
                    (None, None) => true,
                    // A route that names its hosts goes before one for every host.
                    (None, Some(_)) | (Some(_), None) => false,
                }
        });
        if clash.is_some() {
            section.mistake_here(
                "has the same host, path and method as another route, so one of them could never be reached",
                "change its path, hosts or methods, or remove one of the two",
            );
        }
        if matched.path.is_exact() {
            self.exact.entry(matched.path.text.clone()).or_default().push((matched, id));
        } else {
            self.patterns.push((matched, id));
        }
    }

    /// Puts the routes in their order of precedence: what says more goes first.
    pub fn seal(&mut self) {
        self.patterns.sort_by(|(a, _), (b, _)| a.path.segments.cmp(&b.path.segments));
    }

    /// Every route, those that say more before those that say less: what it matches, and which it is.
    pub fn rows(&self) -> impl Iterator<Item = &(Match, RouteId)> {
        let mut exact: Vec<_> = self.exact.values().flatten().collect();
        exact.sort_by(|(a, _), (b, _)| a.path.text.cmp(&b.path.text));
        exact.into_iter().chain(&self.patterns)
    }

    /// The route of a request. `host` is the authority, `path` is normal; a preflight passes the method
    /// that it asks for.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<RouteId, Refusal> {
        let exact: &[(Match, RouteId)] = self.exact.get(path).map_or(&[], Vec::as_slice);
        let routes = |names_hosts: bool| {
            let is_meant = move |(matched, _): &&(Match, RouteId)| matched.hosts.is_some() == names_hosts;
            let patterns = self.patterns.iter().filter(is_meant).filter(|(matched, _)| matched.path.matches(path));
            exact.iter().filter(is_meant).chain(patterns)
        };
        // Routes that name their hosts go before those for every host, whatever their paths.
        let here = routes(true).chain(routes(false));
        let mut here = here.filter(|(matched, _)| matched.takes_host(host)).peekable();
        // The first one owns the path: a method that it does not take must not lead to a broader route,
        // whose rules are for other paths.
        let owner = here.peek().map(|(matched, _)| matched);
        let mut allow = Vec::new();
        for (matched, id) in here.filter(|(matched, _)| owner.is_some_and(|owner| owner.is_beside(matched))) {
            if matched.methods.contains(method) {
                return Ok(*id);
            }
            allow.extend(matched.methods.iter().map(Method::as_str));
        }
        if allow.is_empty() {
            return Err(Refusal::NotFound);
        }
        allow.sort_unstable();
        allow.dedup();
        Err(Refusal::Method { allow: allow.join(", ") })
    }
}

/// Why no route was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No route has this host and path.
    NotFound,
    /// Routes have this path, none with this method.
    Method {
        /// The methods that there are, for `Allow`.
        allow: String,
    },
}

#[cfg(test)]
mod tests {
    use super::{Match, Pattern, Refusal, RouteId, RouteTable, without_port};
    use http::Method;

    #[test]
    fn the_route_that_says_most_owns_the_path() {
        let mut table = RouteTable::default();
        for (position, toml) in [
            "path = \"/*\"\nmethods = [\"GET\", \"POST\"]",
            "path = \"/models/iris\"\nmethods = [\"GET\"]",
            "path = \"/models/iris\"\nmethods = [\"PUT\"]",
            "path = \"/*\"\nmethods = [\"GET\"]\nhosts = [\"inside.example\"]",
        ]
        .iter()
        .enumerate()
        {
            let add = |section: &crate::settings::Section<'_>| {
                table.add(section, Match::compile(section, None).expect("legal"), RouteId::new(position));
            };
            let ((), mistakes) = crate::settings::tests::with_section(toml, add);
            assert_eq!(mistakes, []);
        }
        table.seal();
        for (host, path, method, route) in [
            ("a.example", "/models/iris", Method::GET, Ok(RouteId::new(1))),
            ("a.example", "/models/iris", Method::PUT, Ok(RouteId::new(2))),
            ("a.example", "/models/iris", Method::POST, Err(Refusal::Method { allow: "GET, PUT".into() })),
            ("a.example", "/other", Method::POST, Ok(RouteId::new(0))),
            ("inside.example", "/models/iris", Method::GET, Ok(RouteId::new(3))),
            ("inside.example:8443", "/other", Method::POST, Err(Refusal::Method { allow: "GET".into() })),
        ] {
            assert_eq!(table.find(host, path, &method), route, "{host} {path} {method}");
        }
    }

    fn pattern(text: &str) -> Pattern {
        crate::settings::tests::with_section("", |section| Pattern::compile(section, text)).0.expect("a legal pattern")
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (text, path, matches) in [
            ("/predict", "/predict", true),
            ("/predict", "/predict/", false),
            ("/predict", "/predictx", false),
            ("/models/{name}/predict", "/models/iris/predict", true),
            ("/models/{name}/predict", "/models//predict", false),
            ("/models/{name}/predict", "/models/a/b/predict", false),
            ("/v2/*", "/v2/models/iris", true),
            ("/v2/*", "/v2/", true),
            ("/v2/*", "/v2", false),
            ("/", "/", true),
            ("/*", "/anything", true),
        ] {
            assert_eq!(pattern(text).matches(path), matches, "{text} {path}");
        }
    }

    #[test]
    fn what_says_more_goes_first() {
        let mut patterns = ["/*", "/{a}/b", "/a/*", "/a/b"].map(|text| pattern(text).segments);
        patterns.sort();
        assert_eq!(patterns, ["/a/b", "/a/*", "/{a}/b", "/*"].map(|text| pattern(text).segments));
    }

    #[test]
    fn ports_do_not_take_part() {
        for (authority, host) in
            [("a.example", "a.example"), ("a.example:8443", "a.example"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}
