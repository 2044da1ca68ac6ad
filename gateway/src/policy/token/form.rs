//! What a client sends to the token endpoints (RFC 6749 §2.3, §3.2 and §4; RFC 7009 §2.1; RFC 7662 §2.1).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::Refusal;
use super::users::MOST_PASSWORD;
use crate::types::Secret;

/// The parameters of a form, each once. An empty one counts as absent (RFC 6749 §3.2).
pub struct Form(Vec<(String, Option<String>)>);

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Form {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Refusal::Request`], also where a parameter is repeated.
    pub fn parse(form: &[u8]) -> Result<Self, Refusal> {
        if std::str::from_utf8(form).is_err() {
            return Err(Refusal::Request("the form is not UTF-8"));
        }
        let mut parameters: Vec<(String, Option<String>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(form) {
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::Request("a parameter stands there twice"));
            }
            parameters.push((name.into_owned(), (!value.is_empty()).then(|| value.into_owned())));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter. RFC 6749 §3.2: what is not asked for is ignored.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref())
    }

    /// The value of a parameter that must be there.
    ///
    /// # Errors
    /// [`Refusal::Request`] with `missing`.
    pub fn require(&self, name: &str, missing: &'static str) -> Result<&str, Refusal> {
        self.find(name).ok_or(Refusal::Request(missing))
    }
}

/// How a client says who it is (RFC 6749 §2.3.1).
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) id: String,
    pub(super) secret: Secret,
}

impl Presented {
    /// Reads the credential, from the header or from the form; `None` where there is none.
    pub(super) fn read(form: &Form, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (first, second) = (values.next(), values.next());
        if second.is_some() {
            return Err(Refusal::Request("Authorization stands there twice"));
        }
        let basic = first.and_then(|value| basic_pair(value.as_bytes())).map(basic);
        match (basic, form.find("client_id"), form.find("client_secret")) {
            (Some(_), _, Some(_)) => Err(Refusal::Request("the client says in two ways who it is")),
            (Some(presented), named, None) => {
                let presented = presented.ok_or(Refusal::Client)?;
                if named.is_some_and(|named| named != presented.id) {
                    return Err(Refusal::Request("client_id is not the client of Authorization"));
                }
                Ok(Some(presented))
            }
            (None, None, Some(_)) => Err(Refusal::Request("client_id is missing")),
            (None, Some(id), Some(secret)) => {
                Ok(Some(Self { id: id.to_owned(), secret: Secret::new(secret.as_bytes()) }))
            }
            (None, _, None) => Ok(None),
        }
    }
}

/// What stands behind `Basic`; `None` where another scheme does, which is not a client's.
fn basic_pair(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at(value.iter().position(|&octet| octet == b' ').unwrap_or(value.len()));
    scheme.eq_ignore_ascii_case(b"Basic").then(|| rest.trim_ascii())
}

/// Reads it; `None` where it is no name and secret.
fn basic(pair: &[u8]) -> Option<Presented> {
    let pair = BASE64_STANDARD.decode(pair).ok()?;
    let split = pair.iter().position(|&octet| octet == b':')?;
    let (id, secret) = (pair.get(..split)?, pair.get(split + 1..)?);
    let id = decode(id)?;
    Some(Presented { id, secret: Secret::new(decode(secret)?.into_bytes()) })
}

/// Takes the form encoding off that RFC 6749 §2.3.1 puts on both halves.
fn decode(text: &[u8]) -> Option<String> {
    // What is encoded has neither of the characters that a form gives a meaning of its own.
    if text.iter().any(|octet| matches!(octet, b'&' | b'=')) {
        return String::from_utf8(text.to_vec()).ok();
    }
    let mut pairs = form_urlencoded::parse(text);
    Some(pairs.next().map_or_else(String::new, |(name, _)| name.into_owned()))
}

/// A user name and password, asked to be exchanged for a token.
#[derive(Debug)]
pub struct PasswordGrant {
    /// Who.
    pub username: String,
    pub(super) password: Secret,
}

impl PasswordGrant {
    /// Reads a form (RFC 6749 §4.3.2).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(form: &Form) -> Result<Self, Refusal> {
        let username = form.require("username", "username is missing")?.to_owned();
        let password = Secret::new(form.require("password", "password is missing")?.as_bytes());
        if password.expose().len() > MOST_PASSWORD || username.len() > 256 {
            return Err(Refusal::Grant);
        }
        Ok(Self { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn forms() {
        let form = Form::parse(b"grant_type=password&username=alice&password=a%20b%2Bc&client_id=&scope=");
        let form = form.expect("a good form");
        let grant = PasswordGrant::read(&form).expect("a good grant");
        assert_eq!((grant.username.as_str(), grant.password.expose()), ("alice", &b"a b+c"[..]));
        assert_eq!((form.find("client_id"), form.find("scope")), (None, None), "empty is absent");
        assert!(!format!("{form:?}{grant:?}").contains("a b"), "no value is shown");
        for (form, refusal) in [
            (&b"username=a&username=a"[..], Refusal::Request("a parameter stands there twice")),
            (b"other=&other=", Refusal::Request("a parameter stands there twice")),
            (b"username=\xff", Refusal::Request("the form is not UTF-8")),
        ] {
            assert_eq!(Form::parse(form).err(), Some(refusal), "{}", String::from_utf8_lossy(form));
        }
    }

    #[test]
    fn clients_say_who_they_are_in_one_way() {
        let read = |form: &str, authorization: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in authorization {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
            }
            Presented::read(&Form::parse(form.as_bytes()).expect("a form"), &headers)
                .map(|presented| presented.map(|it| (it.id.clone(), it.secret.expose().to_vec())))
        };
        let header = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let known = Ok(Some(("ci".to_owned(), b"s p".to_vec())));
        assert_eq!(read("", &[&header("ci:s+p")]), known);
        assert_eq!(read("", &[&header("ci:s%20p")]), known);
        assert_eq!(read("client_id=ci", &[&header("%63i:s+p").replace("Basic", "bAsIc")]), known);
        assert_eq!(read("client_id=ci&client_secret=s+p", &[]), known);
        assert_eq!(read("client_id=ci&client_secret=s+p", &["Bearer x"]), known, "no client's scheme");
        assert_eq!(read("client_id=ci", &[]), Ok(None));
        for (form, authorization, refusal) in [
            ("client_id=ci&client_secret=x", &[header("ci:x")][..], "the client says in two ways who it is"),
            ("client_secret=x", &[], "client_id is missing"),
            ("client_id=other", &[header("ci:x")], "client_id is not the client of Authorization"),
            ("", &[header("ci:x"), header("ci:x")], "Authorization stands there twice"),
        ] {
            let authorization: Vec<&str> = authorization.iter().map(String::as_str).collect();
            assert_eq!(read(form, &authorization), Err(Refusal::Request(refusal)), "{form}");
        }
        for broken in ["Basic", "Basic x", "Basic Y2k=", "Basic Y2k6eA"] {
            assert_eq!(read("", &[broken]), Err(Refusal::Client), "{broken}");
        }
    }
}
