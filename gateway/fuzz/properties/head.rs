//! Request heads and small bodies, from a client's octets to what a worker is sent.
//!
//! What the gateway forwards must be, message by message, what a strict reader of the client's octets reads; what that
//! reader can't read must be refused, and nothing of it or behind it be forwarded.
//!
//! An input's first eight octets are the lengths of the pieces that the client sends, over and over; the rest is what
//! it sends.

use gateway::policy::path::normalize;
use gateway::wire::{Bounds as WireBounds, Wire};

use crate::http1::{self, Bounds, End, Framing, Message, Target};
use crate::world::{CLIENT, HEADS, MOST_BODY, Outcome, World};

const BOUNDS: Bounds =
    Bounds { head: HEADS.head, fields: HEADS.headers, target: 8 << 10, chunk_line: 256, trailers: 32 };

/// What the gateway answers has no bounds of its own.
const ANSWERS: Bounds = Bounds { head: 64 << 10, fields: 256, ..BOUNDS };

/// What must hold for every connection.
pub(crate) fn check(input: &[u8]) {
    thread_local!(static WORLD: World = World::new());
    let Some((cuts, stream)) = input.split_first_chunk::<8>() else { return };
    let outcome = WORLD.with(|world| world.serve(stream, cuts));
    let reading = http1::read(stream, &BOUNDS, &is_taken);
    let asked = reading.messages.iter().chain(&reading.partial);
    let mut methods: Vec<_> = asked.clone().map(|message| message.method.clone()).collect();
    // A head that can't be read has an answer too.
    methods.push(b"?".to_vec());
    let (answers, end, rest) = http1::read_answers(&outcome.answers, &methods, &ANSWERS);
    assert!(end == End::Clean && rest.is_empty(), "{end:?}, then {}", rest.escape_ascii());

    assert!(outcome.unreadable.is_empty(), "forwarded what can't be read: {outcome:?}");
    let mut forwarded = outcome.forwarded.iter().enumerate();
    for (index, answer) in answers.iter().enumerate() {
        assert!(index == 0 || !answers[index - 1].closes(), "an answer behind the last one");
        let message = reading.messages.get(index);
        match (message, answer.status) {
            (Some(message), 200) => {
                let (number, sent) = forwarded.next().expect("an answer from nowhere");
                assert_eq!(answer.value("x-number"), Some(number.to_string().as_bytes()), "another request's answer");
                is_of(sent, message);
            }
            (Some(message), 204) => assert!(is_preflight(message), "an answer from nowhere"),
            (Some(message), status) => {
                assert!((400..=499).contains(&status), "{status} is no client's fault: {message:?}");
                assert!(!is_plain(message), "{status} for {message:?}");
            }
            (None, status) => {
                assert!(matches!(status, 400..=499 | 501), "{status} for what can't be read");
                assert!(
                    index == reading.messages.len() && reading.end != End::Clean,
                    "an answer that nobody asked for"
                );
            }
        }
    }
    assert!(forwarded.next().is_none(), "forwarded without an answer: {outcome:?}");
    // It is the last one that was answered, or the first that was not.
    let refused = answers.last().is_some_and(|answer| answer.status != 200);
    broken_off(&outcome, asked.clone().nth(answers.len() - usize::from(refused)));

    // Everything is answered until an answer or a request says that it is the last.
    // Whether a head that is not whole shows to be wrong already is another property's matter.
    let mut wire = Wire::new(HEADS);
    wire.follow(stream);
    let due = reading.messages.len() + usize::from(wire.fault().is_some() || matches!(reading.end, End::Chunks { .. }));
    let closed = answers.len() > 0
        && (answers[answers.len() - 1].closes() || asks_to_close(asked.clone().nth(answers.len() - 1)));
    assert!(closed || answers.len() >= due, "{} of {due} answered: {}", answers.len(), outcome.answers.escape_ascii());
}

/// Whether the gateway takes a target that the grammar does not have.
fn is_taken(target: &[u8]) -> bool {
    let request = [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
    Wire::new(WireBounds { head: 16 << 10, headers: 1 }).follow(&request) == request.len()
}

/// Requests that were broken off have a head like any other, and no more of the body than the client sent.
fn broken_off(outcome: &Outcome, asked: Option<&Message>) {
    assert!(outcome.broken_off.len() <= 1, "broken off more than once: {outcome:?}");
    let Some(octets) = outcome.broken_off.first() else { return };
    let reading = http1::read(octets, &Bounds { head: 64 << 10, fields: 256, ..BOUNDS }, &|_| true);
    let Some(sent) = reading.partial.filter(|_| reading.messages.is_empty()) else { return };
    let message = asked.expect("a request");
    is_head_of(&sent, message);
    assert!(message.body.starts_with(&sent.body), "another body");
}

/// A forwarded message is what the client's was, framed by us.
fn is_of(sent: &Message, message: &Message) {
    is_head_of(sent, message);
    assert_eq!(sent.body, message.body);
}

fn is_head_of(sent: &Message, message: &Message) {
    assert_eq!((&sent.method, sent.http10), (&message.method, false));
    assert!(message.http10 || message.values("host").count() == 1, "HTTP/1.1 without one Host");

    let (sent_path, sent_query) = path_and_query(&sent.target);
    let (path, query) = path_and_query(&message.target);
    let sent_path = std::str::from_utf8(sent_path).expect("a path");
    assert_eq!(normalize(sent_path).as_deref(), Ok(sent_path), "not in normal form");
    assert_eq!(normalize(std::str::from_utf8(path).unwrap_or("?")).as_deref(), Ok(sent_path), "another path");
    assert_eq!(sent_query, query, "another query");

    let route = match sent_path.as_bytes() {
        [b'/', b's', b'/', ..] => "stream",
        [b'/', b'j', b'/', ..] => "json",
        b"/e" => "empty",
        _ => panic!("there is no route for {sent_path}"),
    };
    let host = message.values("host").next().or_else(|| authority(&message.target)).unwrap_or_default();
    let ours: [(&str, &[u8]); 9] = [
        ("host", b"localhost"),
        ("x-forwarded-for", CLIENT.as_bytes()),
        ("x-forwarded-proto", b"https"),
        ("x-forwarded-host", host),
        ("x-modelgate-principal", b"anonymous"),
        ("x-modelgate-roles", b""),
        ("x-modelgate-scheme", b"anonymous"),
        ("x-modelgate-route", route.as_bytes()),
        ("via", &[&joined(message, "via")[..], b"1.1 modelgate"].concat()),
    ];
    for (name, value) in ours {
        let values = if name == "via" {
            vec![joined(sent, "via").strip_suffix(b", ").map(<[u8]>::to_vec).unwrap_or_default()]
        } else {
            sent.values(name).map(<[u8]>::to_vec).collect()
        };
        assert_eq!(values, [value], "{name}");
    }
    let told: Vec<&[u8]> = sent.values("x-modelgate-timeout").collect();
    // Of a body that comes bit by bit nobody knows when it ends.
    assert!(told == [b"3600000"] || route == "stream" && told.is_empty(), "{told:?}");
    let ids: Vec<&[u8]> = sent.values("x-request-id").collect();
    assert!(matches!(*ids, [id] if id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit)), "{ids:?}");

    // All other fields are the client's, in their order, without those of its connection.
    let own = |name: &str| {
        ours.iter().any(|(known, _)| *known == name)
            || matches!(
                name,
                "x-request-id" | "x-modelgate-timeout" | "content-length" | "transfer-encoding" | "cookie"
            )
    };
    let mut expected: Vec<_> =
        message.fields.iter().filter(|(name, _)| !own(name) && passes(name, message)).cloned().collect();
    let mut others: Vec<_> = sent.fields.iter().filter(|(name, _)| !own(name)).cloned().collect();
    // Stable: the order of one name's values is kept.
    expected.sort_by(|(a, _), (b, _)| a.cmp(b));
    others.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(others, expected);
    let cookies: Vec<&[u8]> = message.values("cookie").collect();
    let cookies = if cookies.is_empty() { vec![] } else { vec![cookies.join(&b"; "[..])] };
    assert_eq!(sent.values("cookie").collect::<Vec<_>>(), cookies);
}

/// Values of a list, each with the comma behind it, but where the client's `Connection` took them away.
fn joined(message: &Message, name: &str) -> Vec<u8> {
    let named = names_in_connection(message).any(|named| named == name);
    message.values(name).filter(|_| !named).flat_map(|value| [value, b", "].concat()).collect()
}

fn names_in_connection(message: &Message) -> impl Iterator<Item = String> {
    let values = message.values("connection").flat_map(|value| value.split(|b| *b == b','));
    values.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
}

/// Whether a field is for the worker: RFC 9110 §7.6.1, and whatever could pass for the gateway's own word.
fn passes(name: &str, message: &Message) -> bool {
    let of_the_connection = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
    ];
    let of_the_gateway = [
        "authorization",
        "x-api-key",
        "expect",
        "max-forwards",
        "forwarded",
        "x-forwarded",
        "x-method-override",
        "true-client-ip",
        "cf-connecting-ip",
        "remote-user",
        "x-remote-user",
        "x-user",
    ];
    let families =
        ["x-modelgate-", "x-forwarded-", "x-original-", "x-rewrite-", "x-real-", "x-client-", "x-http-method"];
    !of_the_connection.contains(&name)
        && !of_the_gateway.contains(&name)
        && !families.iter().any(|family| name.starts_with(family))
        && !name.contains('_')
        && !names_in_connection(message).any(|named| named == name)
}

fn authority(target: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_once(target, b"://")?;
    rest.split(|b| matches!(b, b'/' | b'?')).next()
}

fn path_and_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let target = match authority(target) {
        Some(authority) if !target.starts_with(b"/") => {
            split_once(target, b"://").map_or(target, |(_, rest)| &rest[authority.len()..])
        }
        _ => target,
    };
    split_once(target, b"?").map_or((target, None), |(path, query)| (path, Some(query)))
}

fn split_once<'t>(text: &'t [u8], at: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let found = text.windows(at.len()).position(|window| window == at)?;
    Some((&text[..found], &text[found + at.len()..]))
}

fn is_preflight(message: &Message) -> bool {
    let has = |name| message.values(name).next().is_some();
    message.method == b"OPTIONS" && has("origin") && has("access-control-request-method")
}

fn asks_to_close(message: Option<&Message>) -> bool {
    message.is_none_or(|message| message.http10 || names_in_connection(message).any(|name| name == "close"))
}

/// Nothing about it is unusual, so nothing may refuse it.
fn is_plain(message: &Message) -> bool {
    let method = std::str::from_utf8(&message.method).unwrap_or_default();
    let small = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let path = message.target.strip_prefix(b"/s/").is_some_and(|rest| !rest.is_empty() && rest.iter().all(small));
    let hosts: Vec<&[u8]> = message.values("host").collect();
    let host = matches!(*hosts, [host] if (1..=64).contains(&host.len()) && host.iter().all(small));
    let unusual = [
        "connection",
        "expect",
        "upgrade",
        "authorization",
        "x-api-key",
        "content-encoding",
        "access-control-request-method",
    ];
    let types: Vec<&[u8]> = message.values("content-type").collect();
    let body_taken = if message.framing == Framing::None || message.framing == Framing::Length(0) {
        matches!(method, "GET" | "HEAD")
    } else {
        *types == [b"application/octet-stream"] && message.body.len() <= MOST_BODY
    };
    matches!(method, "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE")
        && path
        && host
        && http1::target_kind(&message.target) == Target::Good
        && !message.fields.iter().any(|(name, _)| unusual.contains(&name.as_str()))
        && body_taken
}
