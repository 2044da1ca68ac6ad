//! Paths: one normal form, or none, held against a reading of RFC 3986 by segments of decoded octets.

use gateway::policy::Policy;
use gateway::policy::path::normalize;
use http::Method;
use http::uri::PathAndQuery;

use crate::policy::compiled;

/// What must hold for every path.
pub(crate) fn check(octets: &[u8]) {
    let Ok(path) = std::str::from_utf8(octets) else { return };
    let read = segments(octets);
    let normal = match (normalize(path), &read) {
        (Ok(normal), Some(_)) => normal,
        (Err(_), None) => return,
        (verdict, _) => panic!("{path:?} is read as {read:?}, and its normal form is {verdict:?}"),
    };
    let read = read.unwrap_or_default();

    // One spelling for what is decoded the same: ours, computed from the octets alone.
    assert_eq!(*normal, spelled(&read), "of {path:?}");
    assert_eq!(segments(normal.as_bytes()).as_ref(), Some(&read), "{normal:?} is another path than {path:?}");
    assert_eq!(normalize(&normal).as_deref(), Ok(&*normal), "twice");

    // A reader who decodes once more, folds dots or folds slashes sees the same path still.
    let once = decoded(normal.as_bytes()).expect("whole escapes");
    assert_eq!(decoded(&once).as_ref(), Some(&once), "{normal:?} decoded twice");
    assert_eq!(without_dots(&once), once, "{normal:?} without its dots");
    assert!(!once.windows(2).any(|pair| pair == b"//"), "{normal:?} has an empty segment");
    let other = |&b: &u8| matches!(b, b'\\' | b';' | b'%' | b'?' | b'#');
    assert!(!normal.bytes().any(|b| matches!(b, b'\\' | b';' | b'?' | b'#')), "{normal:?}");
    assert!(!once.iter().any(|b| b.is_ascii_control()), "{normal:?} has a control character");
    assert!(once.iter().filter(|b| other(b)).all(|b| matches!(b, b'?' | b'#')), "{normal:?} hides a delimiter");

    let target: PathAndQuery = normal.parse().expect("a path that can be asked for");
    assert_eq!((target.path(), target.query()), (&*normal, None));

    thread_local!(static POLICY: Policy = policy());
    let found = POLICY.with(|policy| {
        let id = policy.table.find("a.example", &normal, &Method::GET).ok()?;
        policy.route(id).map(|route| route.name.to_string())
    });
    assert_eq!(found.as_deref(), route(&read), "the route of {normal:?}");
}

fn policy() -> Policy {
    const TOML: &str = r#"
        defaults = { authenticate = "anonymous", limits = [] }
        [routes]
        exact = { path = "/admin", methods = ["GET"], pool = "a", authorize = "anonymous" }
        slash = { path = "/admin/", methods = ["GET"], pool = "a", authorize = "anonymous" }
        one = { path = "/a/{name}/b", methods = ["GET"], pool = "a", authorize = "anonymous" }
        rest = { path = "/v/*", methods = ["GET"], pool = "a", authorize = "anonymous" }
    "#;
    compiled(TOML, |root| Policy::compile(root, &["a".into()])).expect("a legal policy")
}

/// The route of decoded segments in [`policy`].
fn route(segments: &[Vec<u8>]) -> Option<&'static str> {
    let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    match *segments {
        [b"admin"] => Some("exact"),
        [b"admin", b""] => Some("slash"),
        [b"a", name, b"b"] if !name.is_empty() => Some("one"),
        [b"v", _, ..] => Some("rest"),
        _ => None,
    }
}

/// The decoded segments; `None` where two readers could disagree about them.
fn segments(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let written = path.strip_prefix(b"/")?;
    let pchar = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@%/".contains(b);
    if !written.iter().all(pchar) {
        return None;
    }
    let segments: Vec<Vec<u8>> = written.split(|b| *b == b'/').map(decoded).collect::<Option<_>>()?;
    let (last, inner) = segments.split_last()?;
    let dots = |segment: &Vec<u8>| **segment == *b"." || **segment == *b"..";
    let doubtful = |b: &u8| b.is_ascii_control() || b"/\\;%".contains(b);
    let plain = !inner.iter().any(Vec::is_empty)
        && !segments.iter().any(dots)
        && !segments.iter().flatten().any(doubtful)
        // An octet sequence may not begin in one segment and end in the next either: `/` is no continuation.
        && inner.iter().chain([last]).all(|segment| std::str::from_utf8(segment).is_ok());
    plain.then_some(segments)
}

fn spelled(segments: &[Vec<u8>]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        for &octet in segment {
            match char::from(octet) {
                plain if plain.is_ascii_alphanumeric() || "-._~!$&'()*+,=:@".contains(plain) => path.push(plain),
                _ => path += &format!("%{octet:02X}"),
            }
        }
    }
    path
}

/// Escapes undone; `None` where one is broken.
fn decoded(octets: &[u8]) -> Option<Vec<u8>> {
    let mut parts = octets.split(|b| *b == b'%');
    let mut all = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        all.push(u8::from_str_radix(digits, 16).ok()?);
        all.extend_from_slice(rest);
    }
    Some(all)
}

/// RFC 3986 §5.2.4.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." if last => kept.push(b""),
            b"." => {}
            b".." => {
                kept.pop();
                if last {
                    kept.push(b"");
                }
            }
            segment => kept.push(segment),
        }
    }
    kept.iter().flat_map(|segment| [b"/", *segment].concat()).collect()
}
