//! The rows.

use super::Connection::{Closed, Either, Kept};
use super::Told::{Answer, BrokenOff, Fault};
use super::{Case, GET, asked, case, hasty, kept};

const HELLO: super::Told = Answer("200⏎content-type: text/plain⏎⏎hello");
const EMPTY: super::Told = Answer("200⏎content-type: text/plain");
const BROKEN: super::Told = Fault(502, "worker-broken");
const SLOW: super::Told = Fault(504, "worker-slow");
const HEAD: &str = "HEAD /№ HTTP/1.1⏎Host: a.test⏎⏎";
const POST: &str = "«post»Content-Length: 5⏎⏎hello";

/// Little patience for heads and pauses, and much in all.
const HASTE: &str = "answer_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n";
/// Much patience for pauses, and little in all.
const TOTAL: &str = "total_timeout = \"300ms\"\n";

/// Every row, each on its line.
#[rustfmt::skip]
pub const CASES: &[Case] = &[
    // Answers that are good.
    case("a length", "«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("a length of nothing", "«ok»Content-Length: 0⏎⏎", EMPTY, Kept),
    case("chunks", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", HELLO, Kept),
    case("chunks with extensions and trailers", "«ok»Transfer-Encoding: Chunked⏎⏎2;a=b⏎he⏎3⏎llo⏎0;c⏎X-Late: 1⏎⏎", HELLO, Kept),
    case("no length, until it closes", "«ok»⏎hello«close»", HELLO, Closed),
    case("an answer in pieces", "HTTP/1.1 200 OK␍«pause»␊Content-Type: text/plain⏎Content-Length: 5⏎«pause»⏎hel«pause»lo", HELLO, Kept),
    case("no reason phrase", "HTTP/1.1 200 ⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("not even a space for the reason", "HTTP/1.1 200⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("a worker's own 404", "HTTP/1.1 404 Not Found⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello", Answer("404⏎content-type: text/plain⏎⏎hello"), Kept),
    case("a status that nobody knows", "HTTP/1.1 299 Odd⏎Content-Length: 0⏎⏎", Answer("299"), Kept),
    // How long is it?
    case("a length, and a body that breaks off", "«ok»Content-Length: 10⏎⏎hello«close»", BROKEN, Closed),
    case("a length, and no body", "«ok»Content-Length: 10⏎⏎«close»", BROKEN, Closed),
    case("a large length, and a body that breaks off", "«ok»Content-Length: 90000⏎⏎«x×70000»«close»", BrokenOff, Closed),
    case("more than the length", "«ok»Content-Length: 5⏎⏎hello, world", HELLO, Closed),
    case("more than a length of nothing", "«ok»Content-Length: 0⏎⏎hello", EMPTY, Closed),
    case("two lengths", "«ok»Content-Length: 5⏎Content-Length: 6⏎⏎hello!", BROKEN, Closed),
    case("the same length twice", "«ok»Content-Length: 5⏎Content-Length: 5⏎⏎hello", BROKEN, Closed),
    case("two lengths in a list", "«ok»Content-Length: 5, 6⏎⏎hello!", BROKEN, Closed),
    case("the same length in a list", "«ok»Content-Length: 5, 5⏎⏎hello", BROKEN, Closed),
    case("a length with a plus", "«ok»Content-Length: +5⏎⏎hello", BROKEN, Closed),
    case("a length with a minus", "«ok»Content-Length: -5⏎⏎hello", BROKEN, Closed),
    case("a length in hexadecimal", "«ok»Content-Length: 0x5⏎⏎hello", BROKEN, Closed),
    case("a length in letters", "«ok»Content-Length: five⏎⏎hello", BROKEN, Closed),
    case("an empty length", "«ok»Content-Length:⏎⏎hello«close»", BROKEN, Closed),
    case("a length past 64 bits", "«ok»Content-Length: 18446744073709551621⏎⏎hello«close»", BROKEN, Closed),
    case("a length past what is taken", "«ok»Content-Length: 99999999999⏎⏎hello«close»", BROKEN, Closed),
    case("a length and chunks", "«ok»Content-Length: 5⏎Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("chunks and a length", "«ok»Transfer-Encoding: chunked⏎Content-Length: 15⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("gzip, then chunked", "«ok»Transfer-Encoding: gzip, chunked⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("chunked twice", "«ok»Transfer-Encoding: chunked, chunked⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("chunked in two fields", "«ok»Transfer-Encoding: chunked⏎Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("a coding that nobody knows", "«ok»Transfer-Encoding: cow⏎⏎hello«close»", BROKEN, Closed),
    case("the coding of none", "«ok»Transfer-Encoding: identity⏎⏎hello«close»", BROKEN, Closed),
    // Chunks.
    case("a chunk's size that is no number", "«ok»Transfer-Encoding: chunked⏎⏎zz⏎hello⏎0⏎⏎", BrokenOff, Closed),
    case("a chunk's size that overflows", "«ok»Transfer-Encoding: chunked⏎⏎FFFFFFFFFFFFFFFFF⏎hello⏎0⏎⏎", BrokenOff, Closed),
    case("a chunk's size with a sign", "«ok»Transfer-Encoding: chunked⏎⏎-5⏎hello⏎0⏎⏎", BrokenOff, Closed),
    case("a chunk that is longer than its size", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello!⏎0⏎⏎", BrokenOff, Closed),
    case("a chunk that breaks off", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hel«close»", BrokenOff, Closed),
    case("chunks without a last one", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎«close»", BrokenOff, Closed),
    case("a last chunk without an end", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎«close»", BrokenOff, Closed),
    case("an extension that never ends", "«ok»Transfer-Encoding: chunked⏎⏎5;«x×100000»", BrokenOff, Closed),
    case("trailers that never end", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎«X-Late: 1⏎×20000»", BrokenOff, Closed),
    // Two answers, and what nobody asked for.
    case("two answers at once", "«ok»Content-Length: 5⏎⏎hello«ok»Content-Length: 6⏎⏎poison", HELLO, Closed),
    case("two answers in chunks at once", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎«ok»Content-Length: 6⏎⏎poison", HELLO, Closed),
    case("a second answer later", "«ok»Content-Length: 5⏎⏎hello«later»«ok»Content-Length: 6⏎⏎poison", HELLO, Closed),
    case("garbage later", "«ok»Content-Length: 5⏎⏎hello«later»␀", HELLO, Closed),
    case("a line end later", "«ok»Content-Length: 5⏎⏎hello«later»⏎", HELLO, Closed),
    case("an interim answer later", "«ok»Content-Length: 5⏎⏎hello«later»HTTP/1.1 100 Continue⏎⏎", HELLO, Closed),
    case("a 408 later, and a close", "«ok»Content-Length: 5⏎⏎hello«later»HTTP/1.1 408 Request Timeout⏎Content-Length: 0⏎⏎«close»", HELLO, Closed),
    case("a close later", "«ok»Content-Length: 5⏎⏎hello«later»«close»", HELLO, Closed),
    // Statuses without a body.
    case("204", "HTTP/1.1 204 No Content⏎⏎", Answer("204"), Kept),
    case("204 with a body", "HTTP/1.1 204 No Content⏎Content-Length: 5⏎⏎hello", Answer("204"), Closed),
    case("204 with chunks", "HTTP/1.1 204 No Content⏎Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", BROKEN, Closed),
    case("204 with another answer behind it", "HTTP/1.1 204 No Content⏎⏎«ok»Content-Length: 6⏎⏎poison", Answer("204"), Closed),
    case("205", "HTTP/1.1 205 Reset Content⏎Content-Length: 0⏎⏎", Answer("205"), Kept),
    case("304 with the length it would have", "HTTP/1.1 304 Not Modified⏎ETag: \"1\"⏎Content-Length: 5⏎⏎", Answer("304⏎etag: \"1\""), Kept),
    case("304 with a body", "HTTP/1.1 304 Not Modified⏎Content-Length: 5⏎⏎hello", Answer("304"), Closed),
    asked("HEAD", HEAD, "«ok»Content-Length: 5⏎⏎", EMPTY, Kept),
    asked("HEAD with chunks announced", HEAD, "«ok»Transfer-Encoding: chunked⏎⏎", EMPTY, Kept),
    asked("HEAD with a body", HEAD, "«ok»Content-Length: 5⏎⏎hello", EMPTY, Closed),
    asked("HEAD with another answer behind it", HEAD, "«ok»Content-Length: 5⏎⏎«ok»Content-Length: 6⏎⏎poison", EMPTY, Closed),
    // Interim answers.
    case("100", "HTTP/1.1 100 Continue⏎⏎«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("102", "HTTP/1.1 102 Processing⏎⏎«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("103", "HTTP/1.1 103 Early Hints⏎Link: </x>⏎⏎«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("199", "HTTP/1.1 199 Odd⏎⏎«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("1,000 interim answers", "«HTTP/1.1 103 Early Hints⏎⏎×1000»«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("an interim answer with a length", "HTTP/1.1 100 Continue⏎Content-Length: 5⏎⏎hello«ok»Content-Length: 5⏎⏎hello«close»", BROKEN, Closed),
    case("an interim answer, and the end", "HTTP/1.1 100 Continue⏎⏎«close»", BROKEN, Closed),
    case("a switch of protocols", "HTTP/1.1 101 Switching Protocols⏎Upgrade: websocket⏎Connection: Upgrade⏎⏎«stall»", BROKEN, Closed),
    case("a switch of protocols, and another answer", "HTTP/1.1 101 Switching Protocols⏎⏎«ok»Content-Length: 6⏎⏎poison«stall»", BROKEN, Closed),
    // Heads that can't be read.
    case("another protocol", "␖␃␃␀␂␂(⏎⏎«close»", BROKEN, Closed),
    case("nothing", "«close»", BROKEN, Closed),
    case("half a status line", "HTTP/1.1 2«close»", BROKEN, Closed),
    case("half a head", "«ok»Content-Le«close»", BROKEN, Closed),
    case("a status in words", "HTTP/1.1 two hundred⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a status of two digits", "HTTP/1.1 20 OK⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a status of four digits", "HTTP/1.1 2000 OK⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a status below 100", "HTTP/1.1 099 Odd⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a version of the future", "HTTP/1.2 200 OK⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("HTTP/2 in words", "HTTP/2 200 OK⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a body alone, as HTTP/0.9 has it", "hello«close»", BROKEN, Closed),
    case("a space before a colon", "«ok»X-A : 1⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a folded field", "«ok»X-A: 1⏎ 2⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a field without a colon", "«ok»X-A⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a NUL in a value", "«ok»X-A: a␀b⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a bare carriage return in a value", "«ok»X-A: a␍b⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a delete in a value", "«ok»X-A: a␡b⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a value past ASCII", "«ok»X-A: «C3 A9»⏎Content-Length: 0⏎⏎", Answer("200⏎content-type: text/plain⏎x-a: «C3 A9»"), Kept),
    case("a head that is too large", "«ok»X-A: «x×40000»⏎Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a head that never ends", "«ok»X-A: «x×200000»", BROKEN, Closed),
    case("101 fields", "«ok»«X-A: 1⏎×99»Content-Length: 0⏎⏎", BROKEN, Closed),
    case("a reason phrase of the worker's own", "HTTP/1.1 200 hunter2⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    // What stays between the worker and the gateway.
    case("hop-by-hop fields", "«ok»Connection: keep-alive⏎Keep-Alive: timeout=5⏎Proxy-Connection: close⏎Proxy-Authenticate: Basic⏎Upgrade: h2c⏎Trailer: X⏎TE: x⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("fields that Connection names", "«ok»Connection: X-Hop, x-two⏎X-Hop: 1⏎X-Two: 2⏎X-A: 3⏎Content-Length: 5⏎⏎hello", Answer("200⏎content-type: text/plain⏎x-a: 3⏎⏎hello"), Kept),
    case("a Connection that can't be read", "«ok»Connection: X Hop⏎X-Hop: 1⏎Content-Length: 5⏎⏎hello", BROKEN, Closed),
    case("what is the gateway's to say", "«ok»Server: x⏎Via: 1.1 x⏎Alt-Svc: h3⏎X-Modelgate-Principal: root⏎Access-Control-Allow-Origin: *⏎X-Request-Id: x⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("Connection: close", "«ok»Connection: close⏎Content-Length: 5⏎⏎hello", HELLO, Closed),
    case("Connection: close, and more", "«ok»Connection: close⏎Content-Length: 5⏎⏎hello«ok»Content-Length: 6⏎⏎poison", HELLO, Closed),
    // HTTP/1.0.
    case("HTTP/1.0", "HTTP/1.0 200 OK⏎Content-Type: text/plain⏎Content-Length: 5⏎⏎hello", HELLO, Closed),
    case("HTTP/1.0 that stays", "HTTP/1.0 200 OK⏎Content-Type: text/plain⏎Connection: keep-alive⏎Content-Length: 5⏎⏎hello", HELLO, Kept),
    case("HTTP/1.0 until it closes", "HTTP/1.0 200 OK⏎Content-Type: text/plain⏎⏎hello«close»", HELLO, Closed),
    case("HTTP/1.0 with chunks", "HTTP/1.0 200 OK⏎Content-Type: text/plain⏎Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎«close»", BROKEN, Closed),
    asked("a client of HTTP/1.0, and chunks", "GET /№ HTTP/1.0⏎Host: a.test⏎⏎", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎0⏎⏎", HELLO, Kept),
    asked("a client of HTTP/1.0, and no length", "GET /№ HTTP/1.0⏎Host: a.test⏎⏎", "«ok»⏎hello«close»", HELLO, Closed),
    // Before the request was read.
    asked("an answer before the body", "«post»Content-Length: 10⏎⏎hello«await»world", "«early»«ok»Content-Length: 5⏎⏎hello", HELLO, Either),
    asked("a refusal before the body, and a close", "«post»Content-Length: 10⏎⏎hello«await»", "«early»HTTP/1.1 413 Large⏎Content-Length: 5⏎Connection: close⏎⏎large«close»", Answer("413⏎⏎large"), Closed),
    // Failures of its own.
    case("500", "HTTP/1.1 500 Oops⏎Content-Length: 7⏎⏎hunter2", Fault(502, "worker-failed"), Closed),
    case("503", "HTTP/1.1 503 Full⏎Retry-After: 7⏎Content-Length: 7⏎⏎hunter2", Fault(503, "worker-busy"), Closed),
    // A connection that was kept.
    kept("a kept connection that ends over a GET", GET, "«close»", BROKEN, Closed),
    kept("a kept connection that ends over a POST", POST, "«close»", BROKEN, Closed),
    kept("a kept connection that ends over a DELETE", "DELETE /№ HTTP/1.1⏎Host: a.test⏎⏎", "«close»", BROKEN, Closed),
    kept("a kept connection that ends in a head", GET, "HTTP/1.1 200«close»", BROKEN, Closed),
    kept("a kept connection with garbage", GET, "␀␀␀␀⏎⏎", BROKEN, Closed),
    kept("a kept connection that serves", POST, "«ok»Content-Length: 5⏎⏎hello", HELLO, Kept),
    // Time.
    hasty("no answer", "«stall»", SLOW, HASTE),
    hasty("half a head, and nothing more", "HTTP/1.1 200 OK⏎«stall»", SLOW, HASTE),
    hasty("interim answers for ever", "«drip»HTTP/1.1 102 Processing⏎⏎", SLOW, HASTE),
    hasty("a head that drips", "HTTP/1.1 200 OK⏎«drip»X", SLOW, HASTE),
    hasty("half a body, and nothing more", "«ok»Content-Length: 10⏎⏎hello«stall»", SLOW, HASTE),
    hasty("half of the chunks, and nothing more", "«ok»Transfer-Encoding: chunked⏎⏎5⏎hello⏎«stall»", BrokenOff, HASTE),
    hasty("a body that drips", "«ok»Content-Length: 60000⏎⏎«drip»x", SLOW, TOTAL),
    hasty("a large body that drips", "«ok»Content-Length: 90000⏎⏎«drip»x", BrokenOff, TOTAL),
    hasty("chunks that drip", "«ok»Transfer-Encoding: chunked⏎⏎«drip»1⏎x⏎", BrokenOff, TOTAL),
    hasty("a chunk that drips", "«ok»Transfer-Encoding: chunked⏎⏎FFFF⏎«drip»x", BrokenOff, TOTAL),
    hasty("an extension that drips", "«ok»Transfer-Encoding: chunked⏎⏎5;«drip»x", BrokenOff, TOTAL),
    hasty("a body until it closes that drips", "«ok»⏎«drip»x", BrokenOff, TOTAL),
];
