//! Who shares a window: everybody for whom all that a limit counts apart is the same.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use figment::value::Value;
use http::{HeaderMap, HeaderName};

use crate::settings::{Section, Setting};
use crate::types::Sha256;

/// Values longer than this stand in keys as their digest.
const LONGEST_VALUE: usize = 128;

/// What tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The client's address, IPv6 by a prefix.
    Address,
    /// The principal.
    Principal,
    /// The API key; whoever came without one by their principal.
    ApiKey,
    /// The role that opened the route.
    Role,
    /// The route.
    Route,
    /// The model that the route or its path names.
    Model,
    /// The pool of workers.
    Pool,
    /// The user name of a token request.
    User,
    /// A header, where a trusted proxy sent it.
    Header(HeaderName),
}

const WORDS: [(&str, By); 8] = [
    ("address", By::Address),
    ("principal", By::Principal),
    ("api_key", By::ApiKey),
    ("role", By::Role),
    ("route", By::Route),
    ("model", By::Model),
    ("pool", By::Pool),
    ("user", By::User),
];

impl Setting for By {
    const SHAPE: &'static str = "\"address\", \"principal\", \"api_key\", \"role\", \"route\", \"model\", \"pool\", \
                                 \"user\" or \"header:NAME\" (of a trusted proxy)";

    fn read(value: &Value) -> Result<Self, String> {
        let word = String::read(value)?;
        if let Some((_, by)) = WORDS.iter().find(|(name, _)| *name == word) {
            return Ok(by.clone());
        }
        let header = word.strip_prefix("header:").and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        header.map(Self::Header).ok_or_else(|| format!("is {word:?}, which is not one of its choices"))
    }
}

impl By {
    /// The word that stands before a value in a key.
    fn word(&self) -> &str {
        match self {
            Self::Header(name) => name.as_str(),
            by => WORDS.iter().find(|(_, known)| known == by).map_or("", |(word, _)| word),
        }
    }

    /// Whether only a proven principal has it.
    fn needs_principal(&self) -> bool {
        matches!(self, Self::Principal | Self::ApiKey | Self::Role)
    }
}

/// Whose request is counted.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's address.
    pub address: IpAddr,
    /// The principal's id; empty where none is proven.
    pub principal: &'a str,
    /// The API key's id, or the principal's.
    pub api_key: &'a str,
    /// The role that opened the route, if one did.
    pub role: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The model's name, where there is one.
    pub model: &'a str,
    /// The pool's name, where there is one.
    pub pool: &'a str,
    /// The user who asks for a token, where one does.
    pub user: &'a str,
    /// The headers, where a trusted proxy sent them.
    pub headers: Option<&'a HeaderMap>,
}

/// What a limit counts apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    by: Box<[By]>,
    ipv6_prefix: u8,
}

impl Scope {
    /// Reads `by` and `ipv6_prefix`.
    pub(super) fn compile(section: &Section<'_>) -> Self {
        let mut by: Vec<By> = Vec::new();
        for (index, one) in section.list::<By>("by") {
            if by.contains(&one) {
                section.mistake_at("by", index, "is named twice", "name it once");
            } else {
                by.push(one);
            }
        }
        if !section.has("by") || (by.is_empty() && section.word("by").is_none()) {
            section.missing(
                "by",
                "write what is counted apart: by = [\"address\"], [\"principal\"] or [\"route\"], or several of them",
            );
        }
        let ipv6_prefix = section.or("ipv6_prefix", 64_u32);
        if !(16..=128).contains(&ipv6_prefix) {
            section.mistake("ipv6_prefix", format!("is {ipv6_prefix}"), "write a number from 16 to 128");
        }
        if section.has("ipv6_prefix") && !by.contains(&By::Address) {
            section.mistake("ipv6_prefix", "stands beside a `by` without \"address\"", "remove it");
        }
        Self { by: by.into(), ipv6_prefix: u8::try_from(ipv6_prefix).unwrap_or(64) }
    }

    /// Whether callers are told apart by this.
    #[must_use]
    pub fn has(&self, by: &By) -> bool {
        self.by.contains(by)
    }

    /// Whether a request without a proven principal can be counted.
    #[must_use]
    pub fn is_for_anybody(&self) -> bool {
        !self.by.iter().any(By::needs_principal)
    }

    /// Whether it counts by address and by nothing that a caller can choose or must prove.
    #[must_use]
    pub fn holds_guessers(&self) -> bool {
        self.has(&By::Address) && self.is_for_anybody() && !self.has(&By::User) && !self.has(&By::Model)
    }

    /// Writes what tells this subject's window apart from the limit's others:
    /// `:address=203.0.113.7:principal=key%3Ateam-a`.
    pub fn write(&self, subject: &Subject<'_>, key: &mut Vec<u8>) {
        for by in &self.by {
            key.push(b':');
            key.extend_from_slice(by.word().as_bytes());
            key.push(b'=');
            match by {
                By::Address => write_address(subject.address, self.ipv6_prefix, key),
                By::Principal => write_value(subject.principal.as_bytes(), key),
                By::ApiKey => write_value(subject.api_key.as_bytes(), key),
                By::Role => write_value(subject.role.as_bytes(), key),
                By::Route => write_value(subject.route.as_bytes(), key),
                By::Model => write_value(subject.model.as_bytes(), key),
                By::Pool => write_value(subject.pool.as_bytes(), key),
                By::User => write_value(subject.user.as_bytes(), key),
                By::Header(name) => {
                    let mut values = subject.headers.into_iter().flat_map(|headers| headers.get_all(name));
                    // Of several values none is better than another; together they are one more value.
                    if let Some(value) = values.next() {
                        write_value(value.as_bytes(), key);
                    }
                    for value in values {
                        key.push(b',');
                        write_value(value.as_bytes(), key);
                    }
                }
            }
        }
    }

    /// How a principal stands in keys, to find all of its windows.
    #[must_use]
    pub fn principal_part(principal: &str) -> Vec<u8> {
        let mut part = b":principal=".to_vec();
        write_value(principal.as_bytes(), &mut part);
        part
    }
}

fn write_address(address: IpAddr, prefix: u8, key: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // By hand, because nearly every request passes here.
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    key.push(b'.');
                }
                key.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            // Writing to memory never fails. The colons of IPv6 are escaped as all others, and its dots stay.
            let _ = write!(key, "{:x}/{prefix}", Ipv6Addr::from_bits(v6.to_bits() & mask).to_bits());
        }
    }
}

/// A value as it stands in a key: what divides keys, what patterns are made of and what can't be shown is escaped.
fn write_value(value: &[u8], key: &mut Vec<u8>) {
    if value.len() > LONGEST_VALUE {
        key.extend_from_slice(Sha256::of(value).to_string().replace(':', "-").as_bytes());
        return;
    }
    for &byte in value {
        if byte.is_ascii_alphanumeric() || b"-_.@/+~".contains(&byte) {
            key.push(byte);
        } else {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
            key.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{By, Scope, Subject};
    use crate::settings::tests::with_section;
    use http::{HeaderMap, HeaderValue};

    pub(crate) fn subject<'a>() -> Subject<'a> {
        Subject {
            address: "192.0.2.7".parse().expect("a literal address"),
            principal: "key:team-a",
            api_key: "team-a",
            role: "predictor",
            route: "predict",
            model: "iris",
            pool: "models",
            user: "",
            headers: None,
        }
    }

    fn key(toml: &str, subject: &Subject<'_>) -> String {
        let (scope, mistakes) = with_section(toml, Scope::compile);
        assert_eq!(mistakes, []);
        let mut key = Vec::new();
        scope.write(subject, &mut key);
        String::from_utf8(key).expect("text")
    }

    #[test]
    fn keys_tell_windows_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", HeaderValue::from_static("a:b"));
        headers.append("x-tenant", HeaderValue::from_static("c"));
        let base = subject();
        for (by, subject, expected) in [
            ("[\"address\"]", base, ":address=192.0.2.7"),
            ("[\"principal\", \"route\"]", base, ":principal=key%3Ateam-a:route=predict"),
            ("[\"api_key\", \"role\"]", base, ":api_key=team-a:role=predictor"),
            ("[\"model\", \"pool\"]", base, ":model=iris:pool=models"),
            ("[\"user\"]", Subject { user: "Zo\u{eb}*", ..base }, ":user=Zo%C3%AB%2A"),
            ("[\"header:X-Tenant\"]", Subject { headers: Some(&headers), ..base }, ":x-tenant=a%3Ab,c"),
            ("[\"header:X-Tenant\"]", base, ":x-tenant="),
        ] {
            assert_eq!(key(&format!("by = {by}"), &subject), expected);
        }
        let long = "x".repeat(129);
        let digest = key("by = [\"principal\"]", &Subject { principal: &long, ..base });
        assert!(digest.starts_with(":principal=sha256-") && digest.len() == 11 + 7 + 64, "{digest}");
    }

    #[test]
    fn one_subscriber_of_ipv6_is_one_address() {
        let of = |address: &str, toml: &str| {
            let address = address.parse().expect("a literal address");
            key(toml, &Subject { address, ..subject() })
        };
        let by = "by = [\"address\"]";
        assert_eq!(of("2001:db8:1:2:3::4", by), of("2001:db8:1:2::", by));
        assert_ne!(of("2001:db8:1:2:3::4", by), of("2001:db8:1:3::", by));
        assert_eq!(of("::ffff:192.0.2.7", by), ":address=192.0.2.7");
        let wide = "by = [\"address\"]\nipv6_prefix = 48";
        assert_eq!(of("2001:db8:1:2::", wide), of("2001:db8:1:3::", wide));
        assert_ne!(of("2001:db8:1::", wide), of("2001:db8:2::", wide));
    }

    #[test]
    fn what_can_not_be_told_apart_is_a_mistake() {
        for (toml, count) in [
            ("by = [\"adress\"]", 1),
            ("by = [\"header:a b\"]", 1),
            ("by = [\"address\", \"address\"]", 1),
            ("by = [\"address\"]\nipv6_prefix = 8", 1),
            ("by = [\"route\"]\nipv6_prefix = 48", 1),
            ("", 1),
        ] {
            let (_, mistakes) = with_section(toml, Scope::compile);
            assert_eq!(mistakes.len(), count, "{toml}: {mistakes:?}");
        }
        let (scope, _) = with_section("by = [\"address\", \"header:X-Tenant\"]", Scope::compile);
        assert!(scope.has(&By::Address) && scope.is_for_anybody() && scope.holds_guessers());
    }
}
