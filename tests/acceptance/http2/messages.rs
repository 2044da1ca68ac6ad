//! Requests that can't be read in one way only, or that HTTP/1 could not say (RFC 9113 §8).

use harness::frames::Code::ProtocolError;
use harness::frames::{PREFACE, flag, settings};

use super::Expected::{Answer, Forwarded, GoAway, Reset};
use super::{Case, case, data, get, judge, post, trailers};

/// An answer that says which part of the head is wrong.
const HEAD: super::Expected = Answer(400, "head-malformed");
const PATH: super::Expected = Answer(400, "path-ambiguous");
/// RFC 9113 §8.1.1: a malformed request is a stream error.
const MALFORMED: super::Expected = Reset(ProtocolError);
/// RFC 9113 §5.4.2: a stream error may be taken for one of the connection, as h2 does with octets that no field
/// may have.
const BROKEN: super::Expected = GoAway(ProtocolError);
/// `GET /open` without anything of its own.
const PLAIN: super::Expected = Forwarded("GET /models HTTP/1.1", &[], "");
/// `POST /upload` with nothing in it.
const UPLOAD: super::Expected =
    Forwarded("POST /upload HTTP/1.1", &["content-type: application/octet-stream", "transfer-encoding: chunked"], "");

async fn judge_messages(cases: Vec<Case>) {
    judge(&[PREFACE, &settings(&[])].concat(), cases).await;
}

#[tokio::test]
async fn pseudo_headers() {
    judge_messages(vec![
        case("a good request", get().whole(), PLAIN),
        case("no :method", get().without(":method").whole(), MALFORMED),
        case("no :scheme", get().without(":scheme").whole(), MALFORMED),
        case("no :path", get().without(":path").whole(), MALFORMED),
        case("none at all", get().without(":method").without(":scheme").without(":path").whole(), MALFORMED),
        case(":method twice", get().and(":method", "GET").whole(), MALFORMED),
        case(":scheme twice", get().and(":scheme", "https").whole(), MALFORMED),
        case(":path twice", get().and(":path", "/open").whole(), MALFORMED),
        case(":authority twice", get().and(":authority", "localhost").whole(), MALFORMED),
        case("an unknown one", get().and(":version", "HTTP/1.1").whole(), BROKEN),
        case("an empty one", get().and(":", "x").whole(), BROKEN),
        case("one in upper case", get().without(":path").and(":Path", "/open").whole(), BROKEN),
        case(":status", get().and(":status", "200").whole(), MALFORMED),
        case(":protocol without CONNECT", get().and(":protocol", "websocket").whole(), MALFORMED),
        case("one behind a field", get().without(":path").and("a", "b").and(":path", "/open").whole(), MALFORMED),
        case(
            ":authority behind a field",
            get().without(":authority").and("a", "b").and(":authority", "localhost").whole(),
            MALFORMED,
        ),
        case("an empty :method", get().set(":method", "").whole(), BROKEN),
        case("an empty :scheme", get().set(":scheme", "").whole(), HEAD),
        case("an empty :path", get().set(":path", "").whole(), MALFORMED),
        case("an empty :authority and no host", get().set(":authority", "").whole(), MALFORMED),
        case(
            "in trailers, which are dropped",
            [post().open(), trailers(&[(":path", "/admin"), ("x", "y")])].concat(),
            UPLOAD,
        ),
        case(
            ":status in trailers, which are dropped",
            [post().open(), trailers(&[(":status", "200")])].concat(),
            UPLOAD,
        ),
    ])
    .await;
}

#[tokio::test]
async fn methods_and_schemes() {
    judge_messages(vec![
        case("a method in lower case", get().set(":method", "get").whole(), Answer(405, "method-not-allowed")),
        case("a method that nobody knows", get().set(":method", "BREW").whole(), Answer(405, "method-not-allowed")),
        case("a method with a space", get().set(":method", "GET /open").whole(), BROKEN),
        case("a method with a line feed", get().set(":method", "GET\n").whole(), BROKEN),
        case("a method with a colon", get().set(":method", "GET:").whole(), BROKEN),
        case("a method that is a request line", get().set(":method", "GET /admin HTTP/1.1\r\nx: y").whole(), BROKEN),
        case("TRACE", get().set(":method", "TRACE").whole(), Answer(405, "method-not-allowed")),
        case("PRI", get().set(":method", "PRI").set(":path", "*").whole(), HEAD),
        case("CONNECT", get().set(":method", "CONNECT").without(":scheme").without(":path").whole(), HEAD),
        case(
            "CONNECT to a port",
            get()
                .set(":method", "CONNECT")
                .set(":authority", "localhost:22")
                .without(":scheme")
                .without(":path")
                .whole(),
            HEAD,
        ),
        case("CONNECT with a path", get().set(":method", "CONNECT").whole(), MALFORMED),
        case(
            "CONNECT without :authority",
            get().set(":method", "CONNECT").without(":scheme").without(":path").without(":authority").whole(),
            HEAD,
        ),
        case(
            "CONNECT with a body",
            [get().set(":method", "CONNECT").without(":scheme").without(":path").open(), data(flag::END_STREAM, "x")]
                .concat(),
            HEAD,
        ),
        case(
            "extended CONNECT, not offered",
            get().set(":method", "CONNECT").and(":protocol", "websocket").whole(),
            MALFORMED,
        ),
        case("http as scheme", get().set(":scheme", "http").whole(), HEAD),
        case("HTTPS in upper case", get().set(":scheme", "HTTPS").whole(), PLAIN),
        case("a scheme that is no HTTP", get().set(":scheme", "ftp").whole(), HEAD),
        case("a scheme with a space", get().set(":scheme", "https ").whole(), MALFORMED),
        case("a scheme that is an address", get().set(":scheme", "https://evil/").whole(), MALFORMED),
        case("a scheme with CRLF", get().set(":scheme", "https\r\nx: y").whole(), MALFORMED),
    ])
    .await;
}

#[tokio::test]
async fn paths() {
    judge_messages(vec![
        case(
            "with a query",
            get().set(":path", "/open?a=b&c=%20d").whole(),
            Forwarded("GET /models?a=b&c=%20d HTTP/1.1", &[], ""),
        ),
        case("with an empty query", get().set(":path", "/open?").whole(), Forwarded("GET /models? HTTP/1.1", &[], "")),
        case("without a slash", get().set(":path", "open").whole(), MALFORMED),
        case("a query alone", get().set(":path", "?a=b").whole(), HEAD),
        case("absolute", get().set(":path", "https://localhost/open").whole(), MALFORMED),
        case("with another authority", get().set(":path", "//evil/open").whole(), PATH),
        case("an asterisk", get().set(":path", "*").whole(), HEAD),
        case("an asterisk for OPTIONS", get().set(":method", "OPTIONS").set(":path", "*").whole(), HEAD),
        case("with a fragment, which is no part of it", get().set(":path", "/open#x").whole(), PLAIN),
        case(
            "with a fragment behind the query",
            get().set(":path", "/open?a#x").whole(),
            Forwarded("GET /models?a HTTP/1.1", &[], ""),
        ),
        case("with a space", get().set(":path", "/open HTTP/1.1").whole(), MALFORMED),
        case("with a space in the query", get().set(":path", "/open?a b").whole(), MALFORMED),
        case("with a tab", get().set(":path", "/open\t").whole(), MALFORMED),
        case("with CRLF", get().set(":path", "/open HTTP/1.1\r\nX: y\r\n\r\n").whole(), MALFORMED),
        case("with a line feed in the query", get().set(":path", "/open?a\nb").whole(), MALFORMED),
        case("with NUL", get().set(":path", "/open\0").whole(), MALFORMED),
        case("with DEL", get().set(":path", "/open\x7f").whole(), MALFORMED),
        case("with octets beyond ASCII", get().set(":path", b"/open\xc3\xa9").whole(), PATH),
        case("with octets beyond ASCII in the query", get().set(":path", b"/open?\xc3\xa9").whole(), HEAD),
        case("with octets that are no UTF-8", get().set(":path", b"/open\xff").whole(), BROKEN),
        case("with a dot segment", get().set(":path", "/open/../admin").whole(), PATH),
        case("with a single dot", get().set(":path", "/./open").whole(), PATH),
        case("with an escaped dot segment", get().set(":path", "/open/%2e%2e/admin").whole(), PATH),
        case("with an escaped slash", get().set(":path", "/open%2f..%2fadmin").whole(), PATH),
        case("escaped twice", get().set(":path", "/open/%252e%252e/admin").whole(), PATH),
        case("with a backslash", get().set(":path", "/open\\..\\admin").whole(), PATH),
        case("with parameters", get().set(":path", "/open;a=b").whole(), PATH),
        case("with two slashes", get().set(":path", "//open").whole(), PATH),
        case("with an escape cut short", get().set(":path", "/open%2").whole(), PATH),
        case("with an escaped NUL", get().set(":path", "/open%00").whole(), PATH),
        case("with quotation marks", get().set(":path", "/open\"").whole(), PATH),
        case("with angle brackets in the query", get().set(":path", "/open?<>").whole(), MALFORMED),
        case("an escaped letter is that letter", get().set(":path", "/%6fpen").whole(), PLAIN),
        case(
            "longer than any here",
            get().set(":path", format!("/open?{}", "a".repeat(12_000))).whole(),
            Answer(414, "target-too-long"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn authorities() {
    let alone = || get().without(":authority");
    judge_messages(vec![
        case("neither :authority nor host", alone().whole(), HEAD),
        case("host alone", alone().and("host", "localhost").whole(), PLAIN),
        case("both, the same", get().and("host", "localhost").whole(), PLAIN),
        case("both, and they disagree", get().and("host", "evil").whole(), HEAD),
        case("both, and the ports disagree", get().and("host", "localhost:1").whole(), HEAD),
        case("host twice", alone().and("host", "localhost").and("host", "localhost").whole(), HEAD),
        case(":authority and host twice", get().and("host", "localhost").and("host", "evil").whole(), HEAD),
        case("an empty host", alone().and("host", "").whole(), HEAD),
        case("host with a path", alone().and("host", "localhost/admin").whole(), HEAD),
        case("host with a list", alone().and("host", "localhost, evil").whole(), HEAD),
        case("with user information", get().set(":authority", "user@localhost").whole(), HEAD),
        case("with a password", get().set(":authority", "user:secret@localhost").whole(), HEAD),
        case("with a port that is none", get().set(":authority", "localhost:http").whole(), HEAD),
        case("with a port too large", get().set(":authority", "localhost:65536").whole(), HEAD),
        case("with an empty port", get().set(":authority", "localhost:").whole(), HEAD),
        case("with two ports", get().set(":authority", "localhost:1:2").whole(), MALFORMED),
        case("with a path", get().set(":authority", "localhost/admin").whole(), MALFORMED),
        case("with a query", get().set(":authority", "localhost?x").whole(), MALFORMED),
        case("with a space", get().set(":authority", "local host").whole(), MALFORMED),
        case("with CRLF", get().set(":authority", "localhost\r\nx: y").whole(), MALFORMED),
        case("with NUL", get().set(":authority", "localhost\0").whole(), MALFORMED),
        case("with octets beyond ASCII", get().set(":authority", b"\xc3\xa9").whole(), MALFORMED),
        case("with an address half in brackets", get().set(":authority", "[::1").whole(), MALFORMED),
        case("with what is no address in brackets", get().set(":authority", "[x]").whole(), HEAD),
        case("with an escape", get().set(":authority", "local%68ost").whole(), MALFORMED),
    ])
    .await;
}

#[tokio::test]
async fn names() {
    let named = |name: &[u8]| get().and(name, "x").whole();
    judge_messages(vec![
        case("good", named(b"x-good"), Forwarded("GET /models HTTP/1.1", &["x-good: x"], "")),
        case(
            "with every sign of a token",
            named(b"a!#$%&'*+-.^`|~9"),
            Forwarded("GET /models HTTP/1.1", &["a!#$%&'*+-.^`|~9: x"], ""),
        ),
        case("in upper case", named(b"X-Upper"), BROKEN),
        case("with one letter in upper case", named(b"x-uppeR"), BROKEN),
        case("empty", named(b""), BROKEN),
        case("with a colon", named(b"x:y"), BROKEN),
        case("with a colon at the end", named(b"transfer-encoding:"), BROKEN),
        case("with a space", named(b"x y"), BROKEN),
        case("with a space at the end", named(b"transfer-encoding "), BROKEN),
        case("with a tab", named(b"x\t"), BROKEN),
        case("with CRLF", named(b"x: y\r\nauthorization"), BROKEN),
        case("with a line feed", named(b"x\ny"), BROKEN),
        case("with NUL", named(b"x\0"), BROKEN),
        case("with DEL", named(b"x\x7f"), BROKEN),
        case("with a quotation mark", named(b"x\""), HEAD),
        case("with brackets", named(b"x(y)"), BROKEN),
        case("with a slash", named(b"x/y"), BROKEN),
        case("with an equals sign", named(b"x=y"), BROKEN),
        case("with octets beyond ASCII", named("\u{e9}".as_bytes()), BROKEN),
        case("with octets that are no UTF-8", named(b"x\xff"), BROKEN),
        case("the long s, which folds to an s", named("hou\u{17f}e".as_bytes()), BROKEN),
        case("the Kelvin sign, which folds to a k", named("coo\u{212a}ie".as_bytes()), BROKEN),
    ])
    .await;
}

#[tokio::test]
async fn values() {
    let valued = |value: &[u8]| get().and("x-value", value).whole();
    judge_messages(vec![
        case("empty", valued(b""), Forwarded("GET /models HTTP/1.1", &["x-value: "], "")),
        case("with a tab inside", valued(b"a\tb"), Forwarded("GET /models HTTP/1.1", &["x-value: a\tb"], "")),
        case(
            "with octets beyond ASCII",
            valued("a\u{e9}b".as_bytes()),
            Forwarded("GET /models HTTP/1.1", &["x-value: a\u{e9}b"], ""),
        ),
        case(
            "the same name twice",
            get().and("x-value", "a").and("x-value", "b").whole(),
            Forwarded("GET /models HTTP/1.1", &["x-value: a", "x-value: b"], ""),
        ),
        case("with CRLF", valued(b"a\r\nauthorization: b"), BROKEN),
        case("with a line feed", valued(b"a\nb"), BROKEN),
        case("with a carriage return", valued(b"a\rb"), BROKEN),
        case("with NUL", valued(b"a\0b"), BROKEN),
        case("with a control", valued(b"a\x01b"), BROKEN),
        case("with DEL", valued(b"a\x7fb"), BROKEN),
        case("with a line feed at the end", valued(b"a\n"), BROKEN),
        case("with a space at the beginning", valued(b" a"), HEAD),
        case("with a space at the end", valued(b"a "), HEAD),
        case("with a tab at the end", valued(b"a\t"), HEAD),
        case("a space alone", valued(b" "), HEAD),
        case("a whole request of HTTP/1", valued(b"a\r\n\r\nGET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"), BROKEN),
    ])
    .await;
}

#[tokio::test]
async fn fields_of_one_connection() {
    judge_messages(vec![
        case("connection", get().and("connection", "close").whole(), MALFORMED),
        case("connection that names another", get().and("connection", "x-a").and("x-a", "b").whole(), MALFORMED),
        case("keep-alive", get().and("keep-alive", "timeout=5").whole(), MALFORMED),
        case("proxy-connection", get().and("proxy-connection", "keep-alive").whole(), MALFORMED),
        case("transfer-encoding", post().and("transfer-encoding", "chunked").body(&["0\r\n\r\n"]), MALFORMED),
        case("transfer-encoding without a body", get().and("transfer-encoding", "chunked").whole(), MALFORMED),
        case("upgrade", get().and("upgrade", "websocket").whole(), MALFORMED),
        case("te: trailers", get().and("te", "trailers").whole(), PLAIN),
        case("te: gzip", get().and("te", "gzip").whole(), MALFORMED),
        case("te: trailers and more", get().and("te", "trailers, gzip").whole(), MALFORMED),
        case("an empty te", get().and("te", "").whole(), MALFORMED),
        case("trailer", get().and("trailer", "x-a").whole(), PLAIN),
        case("http2-settings", get().and("http2-settings", "AAMAAABk").whole(), PLAIN),
        case("proxy-authorization", get().and("proxy-authorization", "Basic eDp5").whole(), PLAIN),
        case("expect, with no body", get().and("expect", "100-continue").whole(), PLAIN),
    ])
    .await;
}

#[tokio::test]
async fn lengths_and_bodies() {
    const BODY: super::Expected =
        Forwarded("POST /upload HTTP/1.1", &["content-length: 5", "content-type: application/octet-stream"], "hello");
    const FRAMED: super::Expected = Forwarded(
        "POST /upload HTTP/1.1",
        &["content-type: application/octet-stream", "transfer-encoding: chunked"],
        "hello",
    );
    let sized = |length: &str| post().and("content-length", length);
    judge_messages(vec![
        case("a length that agrees", sized("5").body(&["hello"]), BODY),
        case("in several frames", sized("5").body(&["he", "llo"]), BODY),
        case("with an empty frame at the end", sized("5").body(&["hello", ""]), BODY),
        case("no length", post().body(&["hello"]), FRAMED),
        case(
            "with padding",
            [sized("5").open(), data(flag::PADDED | flag::END_STREAM, b"\x03hello\0\0\0")].concat(),
            BODY,
        ),
        case("the same length twice", sized("5").and("content-length", "5").body(&["hello"]), HEAD),
        case("two lengths", sized("5").and("content-length", "6").body(&["hello"]), MALFORMED),
        case("a list of lengths", sized("5, 5").body(&["hello"]), MALFORMED),
        case("a length that is too small", sized("3").body(&["hello"]), MALFORMED),
        case("a length that is too large", sized("6").body(&["hello"]), MALFORMED),
        case("a length of 0 with a body", sized("0").body(&["hello"]), MALFORMED),
        case("a length, and no body", sized("5").whole(), MALFORMED),
        case("a signed length", sized("+5").body(&["hello"]), MALFORMED),
        case("a negative length", sized("-5").body(&["hello"]), MALFORMED),
        case("a length with a space", sized("5 ").body(&["hello"]), MALFORMED),
        case("an empty length", sized("").body(&["hello"]), MALFORMED),
        case("a hexadecimal length", sized("0x5").body(&["hello"]), MALFORMED),
        case("a length with a fraction", sized("5.0").body(&["hello"]), MALFORMED),
        case("a length beyond 64 bits", sized("18446744073709551621").body(&["hello"]), MALFORMED),
        case("a length with zeros before it", sized("0005").body(&["hello"]), BODY),
        case("a body where none is taken", get().body(&["hello"]), Answer(413, "body-not-taken")),
        case("an empty body for GET", get().body(&[""]), PLAIN),
        case(
            "trailers",
            [sized("5").open(), data(flag::NONE, "hello"), trailers(&[("x-trailer", "a")])].concat(),
            BODY,
        ),
        case(
            "trailers that frame",
            [sized("5").open(), data(flag::NONE, "hello"), trailers(&[("content-length", "9")])].concat(),
            BODY,
        ),
        case(
            "trailers that say who asks",
            [
                sized("5").open(),
                data(flag::NONE, "hello"),
                trailers(&[("x-modelgate-principal", "root"), ("authorization", "x")]),
            ]
            .concat(),
            BODY,
        ),
        case(
            "trailers in upper case",
            [sized("5").open(), data(flag::NONE, "hello"), trailers(&[("X-Trailer", "a")])].concat(),
            BROKEN,
        ),
        case(
            "trailers of one connection",
            [sized("5").open(), data(flag::NONE, "hello"), trailers(&[("connection", "close")])].concat(),
            MALFORMED,
        ),
        case(
            "trailers before the body is whole",
            [sized("5").open(), data(flag::NONE, "hel"), trailers(&[("x-trailer", "a")])].concat(),
            MALFORMED,
        ),
        case(
            "smuggled in a body",
            sized("32").body(&["GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"]),
            Forwarded(
                "POST /upload HTTP/1.1",
                &["content-length: 32", "content-type: application/octet-stream"],
                "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_ours_to_say() {
    let said = |name: &str| get().and(name, "root").whole();
    judge_messages(vec![
        case("x-modelgate-principal", said("x-modelgate-principal"), PLAIN),
        case("x-modelgate-roles", said("x-modelgate-roles"), PLAIN),
        case("with underscores", said("x_modelgate_principal"), PLAIN),
        case("x-forwarded-for", said("x-forwarded-for"), PLAIN),
        case("x-forwarded-host", said("x-forwarded-host"), PLAIN),
        case("forwarded", said("forwarded"), PLAIN),
        case("x-real-ip", said("x-real-ip"), PLAIN),
        case("x-request-id", said("x-request-id"), PLAIN),
        case("x-original-url", said("x-original-url"), PLAIN),
        case("x-http-method-override", said("x-http-method-override"), PLAIN),
        case(
            "an elder via",
            get().and("via", "1.0 elder").whole(),
            Forwarded("GET /models HTTP/1.1", &["via: 1.0 elder"], ""),
        ),
        case(
            "crumbs of one cookie",
            get().and("cookie", "a=1").and("cookie", "b=2").and("cookie", "c=3").whole(),
            Forwarded("GET /models HTTP/1.1", &["cookie: a=1; b=2; c=3"], ""),
        ),
        case(
            "one cookie",
            get().and("cookie", "a=1; b=2").whole(),
            Forwarded("GET /models HTTP/1.1", &["cookie: a=1; b=2"], ""),
        ),
        case(
            "an API key twice",
            get().set(":path", "/known").and("x-api-key", "a").and("x-api-key", "b").whole(),
            Answer(400, "credentials-several"),
        ),
        case("HEAD, where it is not allowed", get().set(":method", "HEAD").whole(), Answer(405, "")),
    ])
    .await;
}
