//! The one normal form of a path, which matching, rights and the worker all see.
//!
//! What two readers could understand differently is refused rather than guessed at: encoded slashes
//! and backslashes, dot segments, double encoding, path parameters, empty segments (the class of
//! CVE-2021-29492).

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous(pub &'static str);

/// The path in its normal form: begins with `/`; every octet that may stand there itself does, and
/// all other escapes are in upper case (RFC 3986 §6.2.2), so that one decoded path has one spelling. Applied twice it changes nothing.
///
/// # Errors
/// [`Ambiguous`], with what was found.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !path.starts_with('/') {
        return Err(Ambiguous("it does not begin with a slash"));
    }
    let normal = if path.bytes().all(is_plain) { Cow::Borrowed(path) } else { Cow::Owned(unescape(path)?) };
    for segment in normal.get(1..).unwrap_or_default().split_inclusive('/') {
        match segment.strip_suffix('/').unwrap_or(segment) {
            "" => return Err(Ambiguous("it has an empty segment")),
            "." | ".." => return Err(Ambiguous("it has a dot segment")),
            _ => {}
        }
    }
    Ok(normal)
}

/// Octets that stand for themselves in a path: RFC 3986's `pchar` and `/`, without `;` (which some
/// readers cut off as a parameter).
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn unescape(path: &str) -> Result<String, Ambiguous> {
    let mut normal = Vec::with_capacity(path.len());
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if is_plain(byte) {
            normal.push(byte);
            decoded.push(byte);
            continue;
        }
        if byte != b'%' {
            return Err(Ambiguous("it has a character that must be escaped"));
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(Ambiguous("it has a broken escape"));
        };
        let octet = high << 4 | low;
        match octet {
            b'/' | b'\\' => return Err(Ambiguous("it has an escaped slash")),
            b'%' => return Err(Ambiguous("it is escaped twice")),
            b';' => return Err(Ambiguous("it has a path parameter")),
            0..=0x1f | 0x7f => return Err(Ambiguous("it has a control character")),
            octet if is_plain(octet) => normal.push(octet),
            octet => normal.extend_from_slice(format!("%{octet:02X}").as_bytes()),
        }
        decoded.push(octet);
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err(Ambiguous("it is not UTF-8"));
    }
    String::from_utf8(normal).map_err(|_| Ambiguous("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::normalize;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (path, normal) in [
            ("/", "/"),
            ("/predict", "/predict"),
            ("/predict/", "/predict/"),
            ("/a%2Db", "/a-b"),
            ("/v1/iris%3Apredict%40%21%24%26%27%28%29%2A%2b%2C%3d", "/v1/iris:predict@!$&'()*+,="),
            ("/%7euser", "/~user"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/..a/b..", "/..a/b.."),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for path in [
            "",
            "predict",
            "*",
            "//",
            "//predict",
            "/a//b",
            "/./predict",
            "/../predict",
            "/a/..",
            "/a/.",
            "/%2e%2e/x",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;b=1",
            "/a%3bb",
            "/%252e%252e/",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a%zz",
            "/caf\u{e9}",
            "/%ff",
            "/%c3",
            "/a b",
            "/a\"b",
            "/a<b",
            "/a|b",
            "/a^b",
            "/a`b",
            "/a{b}",
        ] {
            assert!(normalize(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_spelling_of_a_path_has_one_normal_form(path in "/[a-z:@!$&'()*+,=~-]{1,12}", escape in prop::collection::vec(any::<bool>(), 12)) {
            let spelled: String = path.chars().skip(1).zip(escape).fold("/".into(), |spelled: String, (c, escape)| {
                if escape { spelled + &format!("%{:02x}", u32::from(c)) } else { spelled + &c.to_string() }
            });
            prop_assert_eq!(normalize(&spelled), normalize(&path));
        }

        #[test]
        fn twice_changes_nothing(path in "/[a-zA-Z0-9%./;~é-]{0,24}") {
            if let Ok(once) = normalize(&path) {
                let twice = normalize(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }
}
