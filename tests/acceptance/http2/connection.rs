//! What is wrong with frames, with their order and with the compression of heads (RFC 9113 §3 to §6, RFC 7541).
//!
//! Each of these ends the connection. Where the RFC has a code of its own for it (`FRAME_SIZE_ERROR` for a fixed
//! size that is wrong, `COMPRESSION_ERROR`, `STREAM_CLOSED`), h2 says `PROTOCOL_ERROR`; clients do the same at either.

use harness::frames::Code::{self, EnhanceYourCalm, FlowControlError, FrameSizeError, ProtocolError, StreamClosed};
use harness::frames::{
    Ended, Frames, PREFACE, block, field, flag, frame, integer, kind, reset, setting, settings, string, window_update,
};
use harness::{Gateway, Recorder, Reply};

use super::Expected::{Answer, Closed, Forwarded, GoAway, Nothing, Reset};
use super::{Case, case, data, get, judge, post, trailers};

const BROKEN: super::Expected = GoAway(ProtocolError);
const PLAIN: super::Expected = Forwarded("GET /models HTTP/1.1", &[], "");

async fn judge_frames(cases: Vec<Case>) {
    judge(&[PREFACE, &settings(&[])].concat(), cases).await;
}

/// HEADERS of `GET /open` with these flags on the first stream, and something else in the place of its block.
fn headers(flags: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::HEADERS, flags, 1, payload)
}

fn both(first: impl AsRef<[u8]>, second: impl AsRef<[u8]>) -> Vec<u8> {
    [first.as_ref(), second.as_ref()].concat()
}

#[tokio::test]
async fn prefaces() {
    let whole = both(settings(&[]), get().whole());
    judge(
        &[],
        vec![
            case("a good one", [PREFACE, &whole].concat(), PLAIN),
            case("HTTP/1.1", "GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n", Closed),
            case("cut short by frames", [&PREFACE[..18], &whole].concat(), Closed),
            case("one octet is another", [b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", &whole[..]].concat(), Closed),
            case("none", whole.clone(), Closed),
            case("twice", [PREFACE, PREFACE, &whole].concat(), GoAway(FrameSizeError)),
            case("no settings behind it", [PREFACE, &get().whole()].concat(), BROKEN),
        ],
    )
    .await;
}

#[tokio::test]
async fn sizes() {
    judge_frames(vec![
        case(
            "DATA larger than allowed",
            both(post().open(), data(flag::END_STREAM, vec![0; 16_385])),
            GoAway(FrameSizeError),
        ),
        case(
            "DATA as large as allowed",
            both(post().open(), data(flag::END_STREAM, "x".repeat(16_384))),
            Answer(200, ""),
        ),
        case("HEADERS larger than allowed", headers(flag::WHOLE, vec![0; 16_385]), GoAway(FrameSizeError)),
        case("an unknown frame larger than allowed", frame(0xfa, 0, 0, vec![0; 16_385]), GoAway(FrameSizeError)),
        case("an announcement of 16 MiB", [0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1], GoAway(FrameSizeError)),
        case("PRIORITY with 4 octets", frame(kind::PRIORITY, 0, 1, [0; 4]), BROKEN),
        case("RST_STREAM with 3 octets", both(post().open(), frame(kind::RST_STREAM, 0, 1, [0; 3])), BROKEN),
        case("RST_STREAM with 5 octets", both(post().open(), frame(kind::RST_STREAM, 0, 1, [0; 5])), BROKEN),
        case("SETTINGS with 5 octets", frame(kind::SETTINGS, 0, 0, [0; 5]), BROKEN),
        case("SETTINGS that confirm with octets", frame(kind::SETTINGS, flag::ACK, 0, [0; 6]), BROKEN),
        case("PING with 7 octets", frame(kind::PING, 0, 0, [0; 7]), BROKEN),
        case("PING with 9 octets", frame(kind::PING, 0, 0, [0; 9]), BROKEN),
        case("GOAWAY with 7 octets", frame(kind::GOAWAY, 0, 0, [0; 7]), BROKEN),
        case("WINDOW_UPDATE with 3 octets", frame(kind::WINDOW_UPDATE, 0, 0, [0; 3]), BROKEN),
        case("WINDOW_UPDATE with 5 octets", frame(kind::WINDOW_UPDATE, 0, 0, [0; 5]), BROKEN),
    ])
    .await;
}

#[tokio::test]
async fn streams() {
    judge_frames(vec![
        case("HEADERS on stream 0", get().on(0), BROKEN),
        case("HEADERS on an even stream", get().on(2), BROKEN),
        case("streams that go down", both(get().on(5), get().on(3)), BROKEN),
        case(
            "a stream that was passed over",
            both(get().without(":authority").on(5), data(flag::END_STREAM, "x")),
            Reset(StreamClosed),
        ),
        case("DATA on stream 0", frame(kind::DATA, 0, 0, "x"), BROKEN),
        case("DATA before HEADERS", data(flag::END_STREAM, "x"), BROKEN),
        case("DATA on an even stream", frame(kind::DATA, 0, 2, "x"), BROKEN),
        case("DATA behind the end", both(get().whole(), data(flag::NONE, "x")), BROKEN),
        case("HEADERS behind the end", both(get().whole(), get().whole()), BROKEN),
        case(
            "HEADERS in the middle without an end",
            [post().open(), headers(flag::END_HEADERS, block(&[("a", "b")]))].concat(),
            Reset(ProtocolError),
        ),
        case("DATA behind RST_STREAM", [post().open(), reset(1), data(flag::END_STREAM, "x")].concat(), Nothing),
        case("HEADERS behind RST_STREAM", [post().open(), reset(1), post().open()].concat(), BROKEN),
        case("DATA behind trailers", [post().open(), trailers(&[("a", "b")]), data(flag::NONE, "x")].concat(), BROKEN),
        case("RST_STREAM on stream 0", reset(0), BROKEN),
        case("RST_STREAM on an idle stream", reset(7), BROKEN),
        case("RST_STREAM on an even stream", reset(2), BROKEN),
        case("RST_STREAM twice", [post().open(), reset(1), reset(1)].concat(), Nothing),
        case("PING on a stream", frame(kind::PING, 0, 1, [0; 8]), BROKEN),
        case("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, []), BROKEN),
        case("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, [0; 8]), BROKEN),
        case(
            "PUSH_PROMISE from a client",
            both(get().open(), frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, both([0, 0, 0, 2], get().block()))),
            BROKEN,
        ),
        case("PRIORITY on stream 0", frame(kind::PRIORITY, 0, 0, [0; 5]), BROKEN),
        case("PRIORITY on an idle stream", frame(kind::PRIORITY, 0, 7, [0, 0, 0, 0, 16]), Nothing),
        case("PRIORITY that depends on itself", frame(kind::PRIORITY, 0, 1, [0, 0, 0, 1, 16]), Reset(ProtocolError)),
        case(
            "HEADERS that depend on themselves",
            headers(flag::WHOLE | flag::PRIORITY, both([0, 0, 0, 1, 16], get().block())),
            Reset(ProtocolError),
        ),
        case(
            "HEADERS with a priority",
            headers(flag::WHOLE | flag::PRIORITY, both([0, 0, 0, 0, 16], get().block())),
            PLAIN,
        ),
        case("HEADERS cut inside the priority", headers(flag::WHOLE | flag::PRIORITY, [0, 0, 0]), BROKEN),
        case("a bit that is reserved", both(&get().whole()[..5], both([0x80], &get().whole()[6..])), PLAIN),
    ])
    .await;
}

#[tokio::test]
async fn windows_and_settings() {
    let set = |id, value| settings(&[(id, value)]);
    judge_frames(vec![
        case("WINDOW_UPDATE of 0 on the connection", window_update(0, 0), BROKEN),
        case("WINDOW_UPDATE of 0 on a stream", both(post().open(), window_update(1, 0)), BROKEN),
        case("WINDOW_UPDATE on an idle stream", window_update(7, 1), BROKEN),
        case(
            "a window of the connection beyond 31 bits",
            both(window_update(0, 0x7fff_ffff), window_update(0, 1)),
            GoAway(FlowControlError),
        ),
        case(
            "a window of a stream beyond 31 bits",
            [post().open(), window_update(1, 0x7fff_ffff), window_update(1, 1)].concat(),
            Reset(FlowControlError),
        ),
        case(
            "windows of streams beyond 31 bits by a setting",
            [post().open(), window_update(1, 0x7fff_0000), set(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)].concat(),
            GoAway(FlowControlError),
        ),
        case("an initial window beyond 31 bits", set(setting::INITIAL_WINDOW_SIZE, 0x8000_0000), BROKEN),
        case("frames that are too small", set(setting::MAX_FRAME_SIZE, 16_383), BROKEN),
        case("frames that are too large", set(setting::MAX_FRAME_SIZE, 0x0100_0000), BROKEN),
        case("pushes that are neither on nor off", set(setting::ENABLE_PUSH, 2), BROKEN),
        case("extended CONNECT that is neither on nor off", set(8, 2), BROKEN),
        case("a setting that nobody knows", set(0xfafa, 1), Nothing),
        case("no table for us", set(setting::HEADER_TABLE_SIZE, 0), Nothing),
        case("a table of 4 GiB for us", set(setting::HEADER_TABLE_SIZE, u32::MAX), Nothing),
        case("the same setting often", settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535); 500]), Nothing),
        case(
            "a confirmation that nobody waits for",
            both(frame(kind::SETTINGS, flag::ACK, 0, []), frame(kind::SETTINGS, flag::ACK, 0, [])),
            BROKEN,
        ),
        case("an answer to a PING that nobody sent", frame(kind::PING, flag::ACK, 0, [7; 8]), Nothing),
        case(
            "DATA beyond the stream's window",
            both(post().and("content-length", "1000000").open(), data(flag::NONE, vec![b'x'; 16_384]).repeat(40)),
            GoAway(FlowControlError),
        ),
    ])
    .await;
}

#[tokio::test]
async fn unknown_frames_flags_and_padding() {
    judge_frames(vec![
        case("an unknown frame", frame(0xfa, 0xff, 0, "anything"), Nothing),
        case("an unknown frame on a stream", both(get().open(), frame(0xfa, 0xff, 1, "anything")), Nothing),
        case(
            "an unknown frame inside a head",
            both(headers(flag::END_STREAM, get().block()), frame(0xfa, 0, 1, "x")),
            BROKEN,
        ),
        case("flags that nobody knows", headers(flag::WHOLE | 0x52, get().block()), PLAIN),
        case("PRIORITY_UPDATE (RFC 9218)", frame(0x10, 0, 0, b"\0\0\0\x01u=1"), Nothing),
        case(
            "HEADERS with padding",
            headers(flag::WHOLE | flag::PADDED, [&[3], &get().block()[..], &[0; 3]].concat()),
            PLAIN,
        ),
        case(
            "HEADERS with padding longer than the frame",
            headers(flag::WHOLE | flag::PADDED, both([255], get().block())),
            BROKEN,
        ),
        case("HEADERS with no room for the padding's length", headers(flag::WHOLE | flag::PADDED, []), BROKEN),
        case("DATA with padding longer than the frame", both(post().open(), data(flag::PADDED, [9, 1, 2])), BROKEN),
        case("DATA with padding as long as the frame", both(post().open(), data(flag::PADDED, [3, 1, 2])), BROKEN),
        case("DATA with no room for the padding's length", both(post().open(), data(flag::PADDED, [])), BROKEN),
        case("DATA of padding alone", both(get().open(), data(flag::PADDED | flag::END_STREAM, [3, 0, 0, 0])), PLAIN),
    ])
    .await;
}

#[tokio::test]
async fn heads_in_parts() {
    let whole = get().block();
    let (first, second) = whole.split_at(20);
    let rest = |flags, stream, octets: &[u8]| frame(kind::CONTINUATION, flags, stream, octets);
    let begun = headers(flag::END_STREAM, first);
    judge_frames(vec![
        case("in two", both(&begun, rest(flag::END_HEADERS, 1, second)), PLAIN),
        case(
            "octet by octet, but not too many",
            both(
                &begun,
                [rest(0, 1, &second[..1]), rest(0, 1, &second[1..2]), rest(flag::END_HEADERS, 1, &second[2..])]
                    .concat(),
            ),
            PLAIN,
        ),
        case("all in the second", both(headers(flag::END_STREAM, []), rest(flag::END_HEADERS, 1, &whole)), PLAIN),
        case("CONTINUATION without HEADERS", rest(flag::END_HEADERS, 1, &whole), BROKEN),
        case("CONTINUATION behind a whole head", both(post().open(), rest(flag::END_HEADERS, 1, &whole)), BROKEN),
        case("CONTINUATION on stream 0", both(&begun, rest(flag::END_HEADERS, 0, second)), BROKEN),
        case("CONTINUATION of another stream", both(&begun, rest(flag::END_HEADERS, 3, second)), BROKEN),
        case("DATA between", both(&begun, data(flag::NONE, "x")), BROKEN),
        case("PING between", both(&begun, frame(kind::PING, 0, 0, [0; 8])), BROKEN),
        case("SETTINGS between", both(&begun, settings(&[])), BROKEN),
        case("another stream's HEADERS between", both(&begun, get().on(3)), BROKEN),
        case(
            "CONTINUATION without an end",
            both(headers(flag::END_STREAM, &whole), rest(0, 1, &field("a", "b")).repeat(1000)),
            GoAway(EnhanceYourCalm),
        ),
        case(
            "empty CONTINUATION without an end",
            both(headers(flag::END_STREAM, &whole), rest(0, 1, &[]).repeat(1000)),
            GoAway(EnhanceYourCalm),
        ),
    ])
    .await;
}

#[tokio::test]
async fn compression() {
    let with = |octets: &[u8]| headers(flag::WHOLE, both(get().block(), octets));
    let indexed = |index: usize| integer(0x80, 7, index);
    let huffman = |octets: &[u8]| [&[0][..], &string(b"x-coded"), &integer(0x80, 7, octets.len()), octets].concat();
    judge_frames(vec![
        case("the static table", headers(flag::WHOLE, b"\x82\x87\x01\x09localhost\x04\x05/open"), PLAIN),
        case(
            "a good string in Huffman code",
            with(&huffman(&[0x1f])),
            Forwarded("GET /models HTTP/1.1", &["x-coded: a"], ""),
        ),
        case(
            "an entry that is added and named",
            with(&[&[0x40][..], &string(b"x-a"), &string(b"b"), &indexed(62)].concat()),
            Forwarded("GET /models HTTP/1.1", &["x-a: b", "x-a: b"], ""),
        ),
        case("index 0", with(&[0x80]), BROKEN),
        case("an index beyond the tables", with(&indexed(62)), BROKEN),
        case("an index far beyond the tables", with(&indexed(1_000_000)), BROKEN),
        case("a name's index beyond the tables", with(&[&integer(0x40, 6, 70)[..], &string(b"x")].concat()), BROKEN),
        case("an integer without an end", with(&[0xff; 20]), BROKEN),
        case("an integer of many zeros", with(&[&[0xff][..], &[0x80; 20], &[0]].concat()), BROKEN),
        case("a string longer than the block", with(&[0, 0x7f, 0xff, 0xff, 0xff, 0x07]), BROKEN),
        case("a field cut in the middle", with(&[0, 5, b'x']), BROKEN),
        case("Huffman code that ends the string itself", with(&huffman(&[0xff; 4])), BROKEN),
        case("Huffman code with a whole octet of padding", with(&huffman(&[0x1f, 0xff])), BROKEN),
        case("Huffman code with zeros for padding", with(&huffman(&[0x18])), BROKEN),
        case("Huffman code cut in the middle", with(&huffman(&[0xff, 0xff])), BROKEN),
        case("a smaller table first", headers(flag::WHOLE, both(integer(0x20, 5, 0), get().block())), PLAIN),
        case("a table as large as allowed", headers(flag::WHOLE, both(integer(0x20, 5, 4096), get().block())), PLAIN),
        case("a table larger than allowed", headers(flag::WHOLE, both(integer(0x20, 5, 4097), get().block())), BROKEN),
        case("a table of 4 GiB", headers(flag::WHOLE, both(integer(0x20, 5, 0xffff_ffff), get().block())), BROKEN),
        case("a table's size in the middle", with(&integer(0x20, 5, 0)), BROKEN),
        case("an empty block", headers(flag::WHOLE, []), Reset(ProtocolError)),
        case(
            "an entry larger than the table empties it",
            with(&[&[0x40][..], &string(b"x-big"), &string(&[b'a'; 5000])].concat()),
            Answer(200, ""),
        ),
    ])
    .await;
}

#[tokio::test]
async fn heads_that_are_too_large() {
    let many = |count: usize| (0..count).fold(get(), |head, index| head.and(format!("x-{index}"), "y"));
    let bomb = |times: usize| {
        let entry = [&[0x40][..], &string(b"x-bomb"), &string(&[b'a'; 4000])].concat();
        headers(flag::WHOLE, [get().block(), entry, vec![0xbe; times]].concat())
    };
    judge_frames(vec![
        case("as many fields as allowed", many(60).whole(), Answer(200, "")),
        case("more fields than allowed", many(65).whole(), Answer(431, "head-too-large")),
        case("far more fields than allowed", many(400).whole(), Answer(431, "head-too-large")),
        case(
            "more octets than allowed",
            get().and("x-a", "a".repeat(9_000)).and("x-b", "b".repeat(7_200)).whole(),
            Answer(431, ""),
        ),
        case("more octets in a cookie than allowed", get().and("cookie", "a".repeat(16_200)).whole(), Answer(431, "")),
        case("a little more by one entry of the table", bomb(4), Answer(431, "")),
        case("far more by one entry of the table", bomb(1000), GoAway(EnhanceYourCalm)),
    ])
    .await;
}

/// More streams at once than allowed are refused, one by one, and no request is lost of those that are not.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let worker = Recorder::replying(Reply::never());
    let overlay = "[listener]\nthreads = 1\nmax_streams = 10\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let mut frames = Frames::begin(&gateway.http2()).await;
    let streams: Vec<u8> = (0..30).flat_map(|index| get().on(index * 2 + 1)).collect();
    frames.send(streams).await.expect("it takes them");
    for index in 10..30 {
        assert_eq!(frames.ended(index * 2 + 1).await, Ended::Reset(Code::RefusedStream));
    }
    worker.wait_for_requests(10).await;
    assert_eq!(worker.seen().len(), 10);
}
