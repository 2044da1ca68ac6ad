//! Floods: each ends in GOAWAY, is counted and recorded, and nobody else feels it. What honest clients do is
//! none. What a client that takes nothing can make the gateway hold is bounded.

use std::time::Duration;

use harness::floods::{Flood, flood};
use harness::frames::{Code, Ended, Frames, PREFACE, flag, frame, kind, reset, setting, settings, window_update};
use harness::wire::plain;
use harness::{Gateway, PATIENCE, Recorder, Reply, eventually};
use serde_json::json;

use super::{get, post};

/// How often floods of a kind were counted.
async fn counted(gateway: &Gateway, kind: &str) -> u64 {
    let metrics = plain(gateway.admin(), "GET", "/metrics").await.text();
    let name = format!("modelgate_http2_floods_total{{kind=\"{kind}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("every kind has its number");
    line.parse().expect("a number")
}

#[tokio::test]
async fn every_flood_ends_is_counted_and_recorded() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let honest = gateway.http2().connect().await;
    for (kind, name) in [
        (Flood::Ping, "ping"),
        (Flood::Settings, "settings"),
        (Flood::Priority, "priority"),
        (Flood::WindowUpdate, "window-update"),
        (Flood::Unknown, "unknown"),
        (Flood::RapidReset, "reset"),
        (Flood::LateReset, "reset"),
        (Flood::MadeYouReset, "fault"),
        (Flood::Continuation, "head"),
        (Flood::HeadBomb, "head"),
        (Flood::EmptyData, "data"),
        (Flood::SmallData, "data"),
    ] {
        let before = counted(&gateway, name).await;
        let recorded = |line: &serde_json::Value| line["event"] == "http2-flood" && line["kind"] == name;
        let records = gateway.log().matching(recorded).len();
        let request = if kind == Flood::LateReset { get() } else { post() }.block();
        let flooded = flood(kind, gateway.http2().tls().await, &request, PATIENCE).await;
        assert!(flooded.ended, "{kind:?}: {flooded:?}");
        assert_eq!(flooded.goodbye, Some(Code::EnhanceYourCalm), "{kind:?}: {flooded:?}");
        eventually(&format!("{kind:?} is counted, {flooded:?}"), async || {
            (counted(&gateway, name).await == before + 1).then_some(())
        })
        .await;
        eventually(&format!("{kind:?} is recorded"), async || {
            (gateway.log().matching(recorded).len() == records + 1).then_some(())
        })
        .await;
        let record = gateway.log().matching(recorded).remove(records);
        assert_eq!((&record["log"], &record["client"]), (&json!("security"), &json!("127.0.0.1")));
        assert_eq!(honest.beside().send(gateway.http2().predict("predictor")).await.status, 200, "beside {kind:?}");
    }
}

/// Padding counts against the window (RFC 9113 §6.9.1), so that who sends nothing but padding runs against it, or
/// into the bound on small frames where it is read at once.
#[tokio::test]
async fn padding_is_bounded_by_the_window() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let flooded = flood(Flood::PaddedData, gateway.http2().tls().await, &post().block(), PATIENCE).await;
    assert!(matches!(flooded.goodbye, Some(Code::FlowControlError | Code::EnhanceYourCalm)), "{flooded:?}");
}

/// What browsers, curl, gRPC and load generators send beside their requests, at its worst.
#[tokio::test]
async fn honest_clients_are_no_flood() {
    const PARTS: usize = 300;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(PARTS));
    let worker = Recorder::replying(Reply::raw(answer));
    let gateway = Gateway::before(&worker).await;
    let mut frames = Frames::begin(&gateway.http2()).await;
    // A tree of priorities and wide windows at the beginning, and 50 requests, each with a window and a priority.
    let group = |id: u32| frame(kind::PRIORITY, 0, id, [0, 0, 0, 0, 16]);
    let begin: Vec<u8> = (0..5).flat_map(|index| group(1 + index * 2)).chain(window_update(0, 0x0fff_0000)).collect();
    frames.send(begin).await.expect("it takes them");
    let missing = get().set(":path", "/nowhere");
    for id in (11..=111).step_by(2) {
        let octets = [missing.on(id), window_update(id, 1 << 20), group(id)].concat();
        frames.send(octets).await.expect("it takes them");
        assert!(matches!(frames.ended(id).await, Ended::Answered(answer) if answer.status == 404));
    }
    // One answer of 5 MiB: two WINDOW_UPDATEs and one PING for each DATA that comes.
    frames.send(get().on(201)).await.expect("it takes it");
    let (mut length, mut pongs) = (0, 0);
    loop {
        let came = frames.next().await.expect("it goes on");
        match came.kind {
            kind::DATA => {
                length += came.payload.len();
                let by = u32::try_from(came.payload.len()).expect("a frame's size");
                if by > 0 {
                    let back = [window_update(0, by), window_update(201, by), frame(kind::PING, 0, 0, [1; 8])];
                    frames.send(back.concat()).await.expect("it takes them");
                }
                if came.flags & flag::END_STREAM != 0 {
                    break;
                }
            }
            kind::PING => pongs += 1,
            kind::GOAWAY => panic!("cut off after {length} octets and {pongs} answers to PING: {:?}", came.payload),
            _ => {}
        }
    }
    assert_eq!(length, PARTS * 0x4000);
    // Answers that are given up in the middle, one after the other.
    for id in (301..1301).step_by(2) {
        frames.send(get().on(id)).await.expect("it takes it");
        while frames.next().await.expect("it goes on").stream != id {}
        frames.send(reset(id)).await.expect("it takes it");
    }
    frames.send(missing.on(2001)).await.expect("it takes it");
    assert!(matches!(frames.ended(2001).await, Ended::Answered(answer) if answer.status == 404));
}

/// KiB that the gateway may need beside what it holds of answers.
const BESIDE: usize = 4 << 10;

/// Clients that ask for large answers and take only so many octets of each: what the gateway holds stays within
/// `bound` (KiB for each), and all of it is let go after the listener's `body_timeout`.
async fn stalled(window: u32, connections: usize, streams: u32, bound: usize) {
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let worker = Recorder::replying(
        Reply::raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(4))).stall(),
    );
    let overlay = "[listener]\nthreads = 1\nbody_timeout = \"8s\"\n\
                   [pools.models]\nmax_connections = 1000\nanswer_timeout = \"1h\"\nbody_timeout = \"1h\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    assert_eq!(gateway.client().get("/nowhere").send().await.status, 404);
    let before = gateway.resident();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut frames = Frames::open(&gateway.http2()).await;
        let begin = [PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, window)]), &window_update(0, 0x7000_0000)];
        let requests: Vec<u8> = (0..streams).flat_map(|index| get().on(index * 2 + 1)).collect();
        frames.send([&begin.concat()[..], &requests].concat()).await.expect("it takes them");
        clients.push(frames);
    }
    let all = connections * usize::try_from(streams).expect("a small number");
    worker.wait_for_requests(all).await;
    let mut most = 0;
    for frames in &mut clients {
        let wanted = u64::from(streams) * u64::from(window);
        let (mut heads, mut taken) = (0, 0);
        while heads < streams || taken < wanted {
            let came = frames.next().await.expect("they come");
            heads += u32::from(came.kind == kind::HEADERS);
            if came.kind == kind::DATA {
                taken += came.payload.len() as u64;
            }
        }
        most = most.max(gateway.resident());
    }
    worker.wait_for_hang_ups(all).await;
    most = most.max(gateway.resident());
    for frames in &mut clients {
        frames.goodbye().await;
    }
    let grown = most.saturating_sub(before + BESIDE) / all;
    assert!(grown <= bound, "{grown} KiB for each of {all} answers behind {window} octets");
}

#[tokio::test]
async fn a_client_that_takes_nothing_makes_us_hold_little() {
    stalled(0, 2, 100, 100).await;
}

#[tokio::test]
async fn a_client_that_takes_one_octet_makes_us_hold_little() {
    stalled(1, 2, 100, 150).await;
}

#[tokio::test]
async fn a_client_that_takes_much_and_then_nothing_makes_us_hold_little() {
    // Six parts of 64 KiB: on their way out, in hand, on their way here, being read.
    stalled(1 << 20, 1, 20, 384).await;
}

/// A window that is opened octet by octet costs a frame each, so that there is a bound to it.
#[tokio::test]
async fn an_answer_that_is_taken_octet_by_octet_is_cut_off() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let worker = Recorder::replying(Reply::raw(answer));
    let gateway = Gateway::before(&worker).await;
    let mut frames = Frames::open(&gateway.http2()).await;
    let begin = [PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]), &get().whole()].concat();
    frames.send(begin).await.expect("it takes them");
    let mut taken = 0;
    let code = loop {
        let _ = frames.send(window_update(1, 1)).await;
        let came = tokio::time::timeout(Duration::from_secs(20), frames.next()).await.expect("something comes");
        let Some(came) = came else { break None };
        match came.kind {
            kind::DATA => taken += came.payload.len(),
            kind::GOAWAY => break Some(came.payload[7]),
            _ => {}
        }
    };
    assert_eq!(code, Some(0xb), "ENHANCE_YOUR_CALM");
    assert!(taken < 60_000);
}
