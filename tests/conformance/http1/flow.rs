//! Several requests on a connection, `Expect`, half-closes and pieces (RFC 9112 §9, RFC 9110 §10.1.1).

use super::Then::{Continued, Cut, Declined, Forwarded, Last, Refused, Until};
use super::{Case, MALFORMED, case};

const GET: super::Then = Forwarded("GET /№ HTTP/1.1");
const HELLO: super::Then = Forwarded("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello");

// One row a line.
#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // One behind the other.
    case("three in one go", "«get»⏎POST /№/b HTTP/1.1⏎Host: a.test⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello«get»⏎", Forwarded("GET /№ HTTP/1.1⏭POST /№/b HTTP/1.1⏎content-length: 5⏎⏎hello⏭GET /№ HTTP/1.1")),
    case("chunks, then another", "«chunked»5⏎hello⏎0⏎⏎«get»⏎", Forwarded("POST /№ HTTP/1.1⏎transfer-encoding: chunked⏎⏎5⏎hello⏎0⏎⏎⏭GET /№ HTTP/1.1")),
    case("an empty line between", "«post»Content-Length: 5⏎⏎hello⏎«get»⏎", Forwarded("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello⏭GET /№ HTTP/1.1")),
    case("more octets than the length", "«post»Content-Length: 5⏎⏎hello!!␠", Until("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello", 400, "head-malformed")),
    case("a good one before a malformed one", "«get»⏎GET  /№/b HTTP/1.1⏎Host: a.test⏎⏎", Until("GET /№ HTTP/1.1", 400, "head-malformed")),
    case("a good one before both framings", "«get»⏎«post»Content-Length: 5⏎Transfer-Encoding: chunked⏎⏎0⏎⏎", Until("GET /№ HTTP/1.1", 400, "head-malformed")),
    case("a good one before two codings", "«get»⏎«post»Transfer-Encoding: gzip, chunked⏎⏎0⏎⏎", Until("GET /№ HTTP/1.1", 501, "framing-unsupported")),
    case("a good one before one without Host", "«get»⏎GET /№/b HTTP/1.1⏎⏎", Until("GET /№ HTTP/1.1", 400, "head-malformed")),
    case("a good one before a huge one", "«get»⏎«get»X-A: «x×20000»⏎⏎", Until("GET /№ HTTP/1.1", 431, "head-too-large")),
    case("a good one before another protocol", "«get»⏎␀␁␂␃⏎⏎", Until("GET /№ HTTP/1.1", 400, "head-malformed")),
    case("a malformed one before a good one", "«get»X-A : 1⏎⏎«get»⏎", MALFORMED),
    case("a refused body before a good one", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Content-Length: 36⏎⏎GET /№/hidden HTTP/1.1⏎Host: a⏎", Declined(415, "body-type")),
    case("refused chunks before a good one", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", Declined(415, "body-type")),
    case("a large refused body before a good one", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Content-Length: 70000⏎⏎«x×70000»", Refused(415, "body-type")),
    case("large refused chunks before a good one", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Transfer-Encoding: chunked⏎⏎11170⏎«x×70000»⏎0⏎⏎", Refused(415, "body-type")),
    case("broken refused chunks before a good one", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Transfer-Encoding: chunked⏎⏎zz⏎hello⏎0⏎⏎", Refused(415, "body-type")),
    case("the last one says so", "«get»Connection: close⏎⏎", Last("GET /№ HTTP/1.1")),
    case("the last one says so in odd case", "«get»Connection: keep-alive, CLOSE⏎⏎", Last("GET /№ HTTP/1.1")),
    case("the last one has a body", "«post»Connection: close⏎Content-Length: 5⏎⏎hello", Last("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello")),
    case("a refused one says that it is the last", "GET /№/%00 HTTP/1.1⏎Host: a.test⏎Connection: close⏎⏎", Refused(400, "path-ambiguous")),
    // In pieces.
    case("the head in two pieces", "GET /№ HTTP/1.1⏎Ho«pause»st: a.test⏎⏎", GET),
    case("a line end in two pieces", "GET /№ HTTP/1.1␍«pause»␊Host: a.test␍␊␍«pause»␊", GET),
    case("a body behind its head", "«post»Content-Length: 5⏎⏎«pause»he«pause»llo", HELLO),
    case("a chunk in pieces", "«chunked»«pause»5«pause»␍«pause»␊hello␍«pause»␊0⏎␍«pause»␊", Forwarded("POST /№ HTTP/1.1⏎transfer-encoding: chunked⏎⏎5⏎hello⏎0⏎⏎")),
    case("a broken chunk behind a good one", "«chunked»5⏎hello⏎«pause»zz⏎", Cut(400, "body-framing")),
    // Expect.
    case("a client that waits for a word", "«post»Expect: 100-continue⏎Content-Length: 5⏎⏎«await»hello", Continued("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello")),
    case("a client that waits, in odd case", "«post»Expect: 100-Continue⏎Content-Length: 5⏎⏎«await»hello", Continued("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello")),
    case("a client that waits with chunks", "«post»Expect: 100-continue⏎Transfer-Encoding: chunked⏎⏎«await»5⏎hello⏎0⏎⏎", Continued("POST /№ HTTP/1.1⏎transfer-encoding: chunked⏎⏎5⏎hello⏎0⏎⏎")),
    case("a client that waits, for a body that is read whole", "«json»Expect: 100-continue⏎Content-Length: 3⏎⏎«await»[1]", Continued("POST /whole/№ HTTP/1.1⏎content-length: 3⏎content-type: application/json⏎⏎[1]")),
    case("a client that waits, and is refused", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: image/png⏎Expect: 100-continue⏎Content-Length: 5⏎⏎«await»", Refused(415, "body-type")),
    case("a client that waits with too large a body", "«post»Expect: 100-continue⏎Content-Length: 99999⏎⏎«await»", Refused(413, "body-too-large")),
    case("a client that waits with an ambiguous path", "POST /№/%2e%2e HTTP/1.1⏎Host: a.test⏎Content-Type: text/plain⏎Expect: 100-continue⏎Content-Length: 5⏎⏎«await»", Refused(400, "path-ambiguous")),
    case("a client that waits with no body", "«get»Expect: 100-continue⏎⏎", GET),
    case("a client of HTTP/1.0 can't wait", "POST /№ HTTP/1.0⏎Host: a.test⏎Content-Type: text/plain⏎Expect: 100-continue⏎Content-Length: 5⏎⏎hello", Last("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello")),
    case("an expectation that nobody knows", "«post»Expect: 200-ok⏎Content-Length: 5⏎⏎hello", Refused(417, "expectation-unknown")),
    case("an expectation that nobody knows, without a body", "«get»Expect: a=b⏎⏎", Refused(417, "expectation-unknown")),
    case("two expectations", "«post»Expect: 100-continue, a=b⏎Content-Length: 5⏎⏎hello", Refused(417, "expectation-unknown")),
    case("two expectations on two lines", "«post»Expect: 100-continue⏎Expect: 100-continue⏎Content-Length: 5⏎⏎hello", Refused(417, "expectation-unknown")),
    case("an empty expectation", "«get»Expect:⏎⏎", Refused(417, "expectation-unknown")),
    // Half-closes.
    case("no more behind a request", "«get»⏎«end»", Last("GET /№ HTTP/1.1")),
    case("no more behind a body", "«post»Content-Length: 5⏎⏎hello«end»", Last("POST /№ HTTP/1.1⏎content-length: 5⏎⏎hello")),
    case("no more behind chunks", "«chunked»5⏎hello⏎0⏎⏎«end»", Last("POST /№ HTTP/1.1⏎transfer-encoding: chunked⏎⏎5⏎hello⏎0⏎⏎")),
    case("no more behind two requests", "«get»⏎«get»⏎«end»", Last("GET /№ HTTP/1.1⏭GET /№ HTTP/1.1")),
    case("no more behind a malformed head", "«get»X-A : 1⏎⏎«end»", MALFORMED),
    case("no more in the middle of a body", "«post»Content-Length: 5⏎⏎hel«end»", Cut(499, "client-gone")),
    case("no more in the middle of a body that is read whole", "«json»Content-Length: 5⏎⏎[1«end»", Refused(499, "client-gone")),
    case("no more in the middle of a chunk", "«chunked»5⏎hel«end»", Cut(499, "client-gone")),
    case("no more behind a chunk", "«chunked»5⏎hello⏎«end»", Cut(499, "client-gone")),
    case("no more before the last line end", "«chunked»5⏎hello⏎0⏎«end»", Cut(499, "client-gone")),
    case("no more before a body", "«post»Content-Length: 5⏎⏎«end»", Cut(499, "client-gone")),
];
