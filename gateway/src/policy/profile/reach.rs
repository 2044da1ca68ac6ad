//! Which of its worker's paths does a route open? Those that the profile knows, and those that it names itself.

use http::Method;

use super::Profile;
use crate::policy::path;
use crate::settings::Section;

/// What a route opens, compiled.
#[derive(Debug, Default)]
pub struct Reach {
    profile: Profile,
    opens: Box<[Box<str>]>,
    /// Whether the route's path says too little, so that each request's is looked at.
    asks: bool,
}

/// The path is one of the worker's that the route does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Reach {
    /// Reads a route's `opens`, and holds its path to the profile.
    #[must_use]
    pub fn compile(section: &Section<'_>, profile: Profile) -> Self {
        let written = section.word("path").unwrap_or_default();
        let target = section.word("worker_path").unwrap_or(written);
        let methods = section.all::<String>("methods");
        let mut opens: Vec<Box<str>> = Vec::new();
        for (index, open) in section.list::<String>("opens") {
            let is_plain = open.len() > 1 && !open.ends_with('/') && !open.contains(['{', '*']);
            let reason = if !is_plain || path::normalize(&open).ok().as_deref() != Some(&*open) {
                Some(("is no path in its normal form", "write a path of the worker such as \"/v2/repository\""))
            } else if profile != Profile::Plain && !can_reach(target, &open) {
                Some(("is a path that this route never reaches", "remove it, or correct the route's path"))
            } else {
                None
            };
            match reason {
                Some((reason, remedy)) => {
                    section.mistake_at("opens", index, format!("is {open:?}, which {reason}"), remedy);
                }
                None => opens.push(open.into()),
            }
        }
        if profile == Profile::Plain {
            if section.has("opens") {
                section.mistake(
                    "opens",
                    "opens paths beyond a profile, and the pool has none, so that all paths of the route are open",
                    "remove it, or write `profile` in the pool's table",
                );
            }
            return Self::default();
        }
        let mut reach = Self { profile, opens: opens.into(), asks: true };
        // Names in braces stand for any; one that a profile does not know shows whether it takes any too.
        let probe: Vec<&str> = target.split('/').map(|part| if part.starts_with('{') { "0" } else { part }).collect();
        let probe = probe.join("/");
        let mut parsed = methods.iter().filter_map(|method| method.parse::<Method>().ok());
        let closed = parsed.rfind(|method| reach.decide(method, &probe).is_err());
        let is_one = !target.contains(['{', '*']) && target.starts_with('/');
        reach.asks = !is_one && (closed.is_some() || target.contains('*'));
        if let Some(method) = closed.filter(|_| is_one) {
            let key = if section.has("worker_path") { "worker_path" } else { "path" };
            let reason = format!(
                "is {target:?}, which the pool's profile {:?} does not know with {method}, so that it stays closed",
                profile.name()
            );
            let remedy = format!("write opens = [{target:?}] beside the role that may call it, or correct the path");
            section.mistake(key, reason, remedy);
        }
        reach
    }

    /// The profile of the pool.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// What it opens beyond the profile.
    #[must_use]
    pub fn opens(&self) -> &[Box<str>] {
        &self.opens
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn decide(&self, method: &Method, path: &str) -> Result<(), Closed> {
        if !self.asks || self.profile.knows(method, path).is_some() {
            return Ok(());
        }
        let is_opened =
            |open: &str| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if self.opens.iter().any(|open| is_opened(open)) { Ok(()) } else { Err(Closed) }
    }
}

/// Whether a route with this path can come to what is opened, or below it.
fn can_reach(target: &str, open: &str) -> bool {
    let mut parts = target.split('/');
    for segment in open.split('/') {
        match parts.next() {
            Some("*") => return true,
            Some(part) if part == segment || part.starts_with('{') => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    fn reach(toml: &str, profile: Profile) -> (Reach, usize) {
        let (reach, mistakes) = with_section(toml, |section| Reach::compile(section, profile));
        (reach, mistakes.len())
    }

    #[test]
    fn only_paths_that_say_too_little_are_looked_at() {
        for (toml, asks) in [
            ("path = \"/v2\"\nmethods = [\"GET\"]", false),
            ("path = \"/v2/models/{m}/infer\"\nmethods = [\"POST\"]", false),
            ("path = \"/v2/models/{m}\"\nmethods = [\"GET\", \"HEAD\"]", false),
            ("path = \"/v2/health/{what}\"\nmethods = [\"GET\"]", true),
            ("path = \"/v2/models/{m}/{what}\"\nmethods = [\"GET\"]", true),
            ("path = \"/v2/models/*\"\nmethods = [\"GET\"]", true),
            ("path = \"/v2/models/{m}\"\nmethods = [\"GET\", \"DELETE\"]", true),
            ("path = \"/anything/*\"\nworker_path = \"/v2/models/iris/infer\"\nmethods = [\"POST\"]", false),
        ] {
            let (reach, mistakes) = reach(toml, Profile::Oip);
            assert_eq!((reach.asks, mistakes), (asks, 0), "{toml}");
        }
    }

    #[test]
    fn a_route_opens_what_its_profile_knows_and_what_it_names() {
        let toml = "path = \"/v2/*\"\nmethods = [\"POST\"]\nopens = [\"/v2/repository/index\"]";
        let (route, mistakes) = reach(toml, Profile::Oip);
        assert_eq!(mistakes, 0);
        for (path, open) in [
            ("/v2/models/iris/infer", true),
            ("/v2/repository/index", true),
            ("/v2/repository/index/more", true),
            ("/v2/repository/indexes", false),
            ("/v2/repository", false),
            ("/v2/repository/models/iris/load", false),
            ("/v2/models/iris/infer/", false),
        ] {
            assert_eq!(route.decide(&Method::POST, path).is_ok(), open, "{path}");
        }
        assert!(reach("path = \"/*\"\nmethods = [\"POST\"]", Profile::Plain).0.decide(&Method::POST, "/x").is_ok());
    }

    #[test]
    fn what_opens_nothing_is_a_mistake() {
        for (toml, profile, count) in [
            ("path = \"/v2/repository/index\"\nmethods = [\"POST\"]", Profile::Oip, 1),
            ("path = \"/v2\"\nmethods = [\"GET\", \"DELETE\"]", Profile::Oip, 1),
            ("path = \"/x\"\nworker_path = \"/metrics\"\nmethods = [\"GET\"]", Profile::Predict, 1),
            ("path = \"/v2/*\"\nmethods = [\"POST\"]\nopens = [\"/v2/repository\"]", Profile::Plain, 1),
            ("path = \"/v2/*\"\nmethods = [\"POST\"]\nopens = [\"/\", \"v2\", \"/v2/\", \"/v2/*\"]", Profile::Oip, 4),
            ("path = \"/v2/{a}\"\nmethods = [\"GET\"]\nopens = [\"/v3/x\", \"/v2/x/y\"]", Profile::Oip, 2),
            ("path = \"/v2/repository/index\"\nmethods = [\"POST\"]\nopens = [\"/v2/repository\"]", Profile::Oip, 0),
            ("path = \"/v2/models/{m}/config\"\nmethods = [\"GET\"]\nopens = [\"/v2/models\"]", Profile::Oip, 0),
        ] {
            assert_eq!(reach(toml, profile).1, count, "{toml}");
        }
    }
}
