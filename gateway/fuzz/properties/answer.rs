//! A worker's answers, from its octets to what a client is sent.
//!
//! A good answer reaches the client as it is meant. Whatever else a worker sends, the client gets whole answers or a
//! broken connection, and never one request's answer for another's.
//!
//! An input's first octet chooses the method and whether the worker closes; the rest is what it answers with.

use crate::http1::{self, Bounds, End};
use crate::world::World;

const BOUNDS: Bounds = Bounds { head: 32 << 10, fields: 100, target: 0, chunk_line: 256, trailers: 32 };
const FIELDS: usize = 4 << 10;

/// What must hold for every answer.
pub(crate) fn check(input: &[u8]) {
    thread_local!(static WORLD: World = World::new());
    let Some((kind, octets)) = input.split_first() else { return };
    let method = if kind & 1 == 1 { "HEAD" } else { "GET" };
    let methods = [method.as_bytes().to_vec(), b"GET".to_vec()];
    let (meant, end, surplus) = http1::read_answers(octets, &methods[..1], &BOUNDS);
    // An answer that is not whole is waited for, as long as its connection is there.
    let closes = kind & 2 == 2 || end != End::Clean || meant.is_empty() || is_closed_by_end(&meant[0], method);
    let stream = format!("{method} /s/a HTTP/1.1\r\nHost: a\r\n\r\nGET /s/b HTTP/1.1\r\nHost: a\r\n\r\n");
    let outcome = WORLD.with(|world| {
        world.script(octets.to_vec(), closes);
        world.serve(stream.as_bytes(), &[u8::MAX])
    });
    assert!(outcome.unreadable.is_empty() && outcome.broken_off.is_empty(), "{outcome:?}");
    let (answers, ended, rest) = http1::read_answers(&outcome.answers, &methods, &Bounds { fields: FIELDS, ..BOUNDS });
    let first = answers.first().expect("an answer");

    // What is broken may break off, and nothing comes behind it.
    assert!(ended == End::Clean || (ended == End::Short && answers.len() == 1), "{ended:?}: {outcome:?}");
    assert!(rest.is_empty(), "more than two answers: {}", rest.escape_ascii());
    assert!(first.whole || end != End::Clean, "a whole answer breaks off");
    for answer in &answers {
        for name in ["server", "via", "keep-alive", "upgrade", "te", "trailer", "proxy-authenticate", "x-powered-by"] {
            assert_eq!(answer.value(name), None, "{name}");
        }
        assert!(answer.value("x-request-id").is_some_and(|id| id.len() == 32), "no answer of this gateway's");
    }

    // A request on a kept connection that ends without a word may be sent once more.
    let again = octets.is_empty() && outcome.forwarded.len() == 3;
    assert!(again || outcome.forwarded.len() == answers.len(), "{outcome:?}");
    match meant.first().filter(|_| end == End::Clean) {
        Some(meant) if !is_connection_read(meant) => assert_eq!(first.status, 502),
        Some(meant) if is_usable(meant.status) => {
            assert_eq!((first.status, &first.body), (meant.status, &meant.body), "another answer");
            assert_eq!(answers.len(), 2, "a good answer ends the connection; surplus: {}", surplus.escape_ascii());
        }
        Some(meant) => assert!(matches!(first.status, 502 | 503), "{} for {}", first.status, meant.status),
        // What this reader refuses the gateway may forgive, in its own words.
        None => assert!(again || matches!(first.status, 502 | 503) || is_usable(first.status), "{}", first.status),
    }
    let Some(second) = answers.get(1) else { return };
    let number = second.value("x-number").and_then(|number| std::str::from_utf8(number).ok()?.parse::<usize>().ok());
    let asked = number.and_then(|number| outcome.forwarded.get(number));
    assert_eq!((second.status, asked.map(|asked| &*asked.target)), (200, Some(&b"/s/b"[..])), "another's answer");
}

/// Whether only the end of the connection ends it (RFC 9112 §6.3).
fn is_closed_by_end(answer: &http1::Answer, method: &str) -> bool {
    let framed = ["content-length", "transfer-encoding"].iter().any(|name| answer.value(name).is_some());
    !framed && method != "HEAD" && !matches!(answer.status, 204 | 304)
}

/// Whether `Connection` is a list of names; what is none is refused.
fn is_connection_read(answer: &http1::Answer) -> bool {
    let values = answer.fields.iter().filter(|(name, _)| name == "connection");
    let names = values.flat_map(|(_, value)| value.split(|b| *b == b',').map(<[u8]>::trim_ascii));
    names.into_iter().all(|name| name.is_empty() || http1::is_token(name))
}

/// Whether an answer reaches the client; those of 5xx do not, and 2 to 4 are all else there is.
fn is_usable(status: u16) -> bool {
    (200..=499).contains(&status)
}
