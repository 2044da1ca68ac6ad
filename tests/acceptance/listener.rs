//! Connections: who they come from, how many there may be, and how much each may do.

use std::net::SocketAddr;

use harness::client::{handshake_over, tls_config};
use harness::{Gateway, GatewayBuilder, PATIENCE, Recorder, Wire, eventually};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::admin::number;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &str = "GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// What turns the protocol on for clients of these tests.
const FROM_HERE: &str = "[listener]\nproxy_protocol = true\nproxy_protocol_from = [\"127.0.0.0/8\"]\n";

/// A PROXY protocol header of version 2.
fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// The header of a client with this address.
fn speaking_for(client: &str) -> Vec<u8> {
    match client.parse().expect("an address and port") {
        SocketAddr::V4(client) => {
            let port = client.port().to_be_bytes();
            header(0x21, 0x11, &[&client.ip().octets()[..], &[127, 0, 0, 1], &port, &[0x20, 0xfb]].concat())
        }
        SocketAddr::V6(client) => {
            let port = client.port().to_be_bytes();
            header(0x21, 0x21, &[&client.ip().octets()[..], &[0; 16], &port, &[0x20, 0xfb]].concat())
        }
    }
}

async fn tcp(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address()).await.expect("the port is open")
}

/// A connection from another address of this machine.
async fn tcp_from(gateway: &Gateway, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("loopback has many addresses");
    socket.connect(gateway.address()).await.expect("the port is open")
}

fn http1() -> ClientConfig {
    tls_config(&["http/1.1"], &[])
}

/// Shakes hands on a connection that begins with these octets.
async fn opened(mut stream: TcpStream, first: &[u8]) -> std::io::Result<Wire> {
    // A listener that refuses may close before everything is sent.
    stream.write_all(first).await?;
    handshake_over(stream, "localhost", http1()).await.map(Wire::over)
}

/// Waits for the gateway to close, which must say nothing.
async fn assert_closed(mut stream: TcpStream, what: &str) {
    let mut said = Vec::new();
    // Closing over octets that nobody read resets the connection.
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "{what}: it stays open");
    assert_eq!(said, b"", "{what}");
}

/// What the record of the last request says of its client, when there are so many.
async fn client_in_record(gateway: &Gateway, count: usize) -> String {
    let records = eventually("a record", async || {
        let records = gateway.log().matching(|line| line["log"] == "access");
        (records.len() == count).then_some(records)
    });
    records.await.last().and_then(|record| record["client"].as_str().map(str::to_owned)).unwrap_or_default()
}

async fn refused(gateway: &Gateway, reason: &str) -> String {
    let series = format!("modelgate_connections_refused_total{{reason=\"{reason}\"}}");
    number(gateway, &series).await.expect("every reason has a number")
}

#[tokio::test]
async fn the_address_in_the_proxys_header_is_the_clients() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(FROM_HERE).start().await;
    for (index, (first, client)) in [
        (speaking_for("203.0.113.9:54321"), "203.0.113.9"),
        (speaking_for("[2001:db8::7]:54321"), "2001:db8::7"),
        (speaking_for("[::ffff:203.0.113.9]:1"), "203.0.113.9"),
        (header(0x20, 0x00, &[]), "127.0.0.1"),
        (header(0x20, 0x11, &[9; 12]), "127.0.0.1"),
        (header(0x21, 0x00, &[]), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wire = opened(tcp(&gateway).await, &first).await.expect("a handshake");
        wire.send(REQUEST).await;
        assert_eq!(wire.answer().await.status, 200);
        assert_eq!(worker.seen()[index].header("x-forwarded-for").as_deref(), Some(client));
        assert_eq!(client_in_record(&gateway, index + 1).await, client);
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_the_same_and_nothing_behind_it_is_lost() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(FROM_HERE).start().await;
    let first = speaking_for("203.0.113.9:54321");
    let mut stream = tcp(&gateway).await;
    stream.set_nodelay(true).expect("it can be set");
    for octet in &first {
        stream.write_all(&[*octet]).await.expect("it is read");
        stream.flush().await.expect("it is sent");
        tokio::task::yield_now().await;
    }
    let mut wire = opened(stream, b"").await.expect("a handshake");
    wire.send(REQUEST).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(worker.only().header("x-forwarded-for").as_deref(), Some("203.0.113.9"));
}

#[tokio::test]
async fn limits_count_by_the_address_in_the_header() {
    let worker = Recorder::start();
    let once = "[limits.once]\nquota = 1\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
                [routes.open]\nlimits = [\"once\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(FROM_HERE).policy(once).start().await;
    for (client, status) in [("203.0.113.1:1", 200), ("203.0.113.2:1", 200), ("203.0.113.1:2", 429)] {
        let mut wire = opened(tcp(&gateway).await, &speaking_for(client)).await.expect("a handshake");
        wire.send(REQUEST).await;
        assert_eq!(wire.answer().await.status, status, "{client}");
    }
}

#[tokio::test]
async fn a_connection_without_a_good_header_is_closed_and_told() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(FROM_HERE).start().await;
    let mut count = 0;
    for (what, first) in [
        ("TLS at once", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        ("plain HTTP", REQUEST.into()),
        ("version 1", b"PROXY TCP4 203.0.113.9 127.0.0.1 54321 8443\r\n".to_vec()),
        ("datagrams", header(0x21, 0x12, &[0; 12])),
        ("a Unix socket", header(0x21, 0x31, &[0; 216])),
        ("another command", header(0x22, 0x11, &[0; 12])),
        ("a length that is too short", header(0x21, 0x11, &[0; 4])),
        ("an endless header", [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat()),
    ] {
        let mut stream = tcp(&gateway).await;
        stream.write_all(&first).await.expect("it can be sent");
        assert_closed(stream, what).await;
        count += 1;
        assert_eq!(refused(&gateway, "proxy-protocol-header").await, count.to_string(), "{what}");
    }
    let event = gateway.log().event("connection-refused").await;
    assert_eq!((&event["reason"], &event["address"]), (&"proxy-protocol-header".into(), &"127.0.0.1".into()));
    assert!(event["cause"].as_str().is_some_and(|cause| cause.contains("let the proxy send one")), "{event}");
    worker.assert_untouched();
}

#[tokio::test]
async fn who_is_no_proxy_can_not_choose_an_address() {
    let worker = Recorder::start();
    let elsewhere = "[listener]\nproxy_protocol = true\nproxy_protocol_from = [\"192.0.2.0/24\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(elsewhere).start().await;
    assert!(opened(tcp(&gateway).await, &speaking_for("203.0.113.9:1")).await.is_err());
    assert!(opened(tcp(&gateway).await, b"").await.is_err());
    assert_eq!(refused(&gateway, "proxy-protocol-peer").await, "2");
    let event = gateway.log().event("connection-refused").await;
    assert_eq!(event["reason"], "proxy-protocol-peer");
    worker.assert_untouched();
}

#[tokio::test]
async fn whoever_connects_may_choose_an_address_only_where_that_is_called_dangerous() {
    let worker = Recorder::start();
    let anybody = "[listener]\nproxy_protocol = true\ndanger_proxy_protocol_from_anybody = true\n\
                   max_connections_per_address = 2\n";
    let gateway = Gateway::builder().worker(&worker).policy(anybody).start().await;
    let mut wire = opened(tcp(&gateway).await, &speaking_for("203.0.113.9:1")).await.expect("a handshake");
    wire.send(REQUEST).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(worker.only().header("x-forwarded-for").as_deref(), Some("203.0.113.9"));
    // Who names no client is counted as itself: nobody here is known to be a proxy.
    let local = header(0x20, 0x00, &[]);
    let held = (opened(tcp(&gateway).await, &local).await, opened(tcp(&gateway).await, &local).await);
    assert!(held.0.is_ok() && held.1.is_ok());
    assert!(opened(tcp(&gateway).await, &local).await.is_err());
}

#[tokio::test]
async fn a_header_where_none_is_asked_for_is_no_tls() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    assert!(opened(tcp(&gateway).await, &speaking_for("203.0.113.9:1")).await.is_err());
    worker.assert_untouched();
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for_longer_than_a_handshake() {
    let gateway =
        Gateway::builder().policy(FROM_HERE).policy("[listener]\nhandshake_timeout = \"300ms\"").start().await;
    let mut stream = tcp(&gateway).await;
    stream.write_all(&SIGNATURE[..5]).await.expect("it can be sent");
    assert_closed(stream, "half a header").await;
}

fn at_most(connections: u32) -> GatewayBuilder {
    Gateway::builder().policy(format!("[listener]\nmax_connections_per_address = {connections}\n"))
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_have_theirs() {
    let worker = Recorder::start();
    let gateway = at_most(4).worker(&worker).start().await;
    // On both threads: the kernel spreads them.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(opened(tcp(&gateway).await, b"").await.expect("a handshake"));
    }
    for _ in 0..20 {
        assert_closed(tcp(&gateway).await, "one more").await;
    }
    assert_eq!(refused(&gateway, "address-full").await, "20");
    let events = gateway.log().matching(|line| line["event"] == "connection-refused");
    assert_eq!(events[0]["reason"], "address-full", "{events:?}");
    assert!(events.len() < 10, "a flood of connections is no flood of lines: {events:?}");
    // What was refused holds nothing.
    eventually("the refused to be gone", async || {
        (number(&gateway, "modelgate_connections").await.as_deref() == Some("4")).then_some(())
    })
    .await;
    // Another address is served meanwhile.
    let mut other = opened(tcp_from(&gateway, "127.0.0.2").await, b"").await.expect("a handshake");
    other.send(REQUEST).await;
    assert_eq!(other.answer().await.status, 200);
    // Those that are held are served too, and a place that is given back can be had again.
    let mut first = held.remove(0);
    first.send(REQUEST).await;
    assert_eq!(first.answer().await.status, 200);
    drop(first);
    let again = eventually("a place", async || opened(tcp(&gateway).await, b"").await.ok());
    drop(again.await);
}

#[tokio::test]
async fn connections_that_never_shake_hands_are_counted_too() {
    let gateway = at_most(3).start().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tcp(&gateway).await);
    }
    let full = eventually("the address to be full", async || {
        let stream = tcp(&gateway).await;
        let refused = refused(&gateway, "address-full").await != "0";
        silent.push(stream);
        refused.then_some(())
    });
    full.await;
}

#[tokio::test]
async fn a_trusted_proxy_is_not_counted_by_its_own_address() {
    let worker = Recorder::start();
    let trusted = "[client_address]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let gateway = at_most(2).worker(&worker).policy(trusted).start().await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(opened(tcp(&gateway).await, b"").await.expect("a handshake"));
    }
    assert_eq!(refused(&gateway, "address-full").await, "0");
}

#[tokio::test]
async fn behind_a_proxy_each_client_is_counted_by_its_own_address() {
    let worker = Recorder::start();
    let gateway = at_most(2).worker(&worker).policy(FROM_HERE).start().await;
    let mut held = Vec::new();
    for client in ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1"] {
        held.push(opened(tcp(&gateway).await, &speaking_for(client)).await.expect("a handshake"));
    }
    for client in ["203.0.113.1:3", "[2001:db8::3]:1"] {
        assert!(opened(tcp(&gateway).await, &speaking_for(client)).await.is_err(), "{client}");
    }
    // The proxy's own looks after us are no client's.
    for _ in 0..5 {
        held.push(opened(tcp(&gateway).await, &header(0x20, 0x00, &[])).await.expect("a handshake"));
    }
    assert_eq!(refused(&gateway, "address-full").await, "2");
}

#[tokio::test]
async fn a_listener_that_is_full_says_so() {
    let gateway = Gateway::builder().policy("[listener]\nmax_connections = 2\nthreads = 1\n").start().await;
    let held = (tcp(&gateway).await, tcp(&gateway).await);
    let event = gateway.log().event("connections-full").await;
    assert_eq!(event["thread_connections"], "2");
    assert_eq!(number(&gateway, "modelgate_connections_full_total").await.as_deref(), Some("1"));
    drop(held);
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_told_over_http_1() {
    let worker = Recorder::start();
    let gateway =
        Gateway::builder().worker(&worker).policy("[listener]\nmax_requests_per_connection = 3\n").start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    // All at once: what comes behind the last is not served.
    wire.send(REQUEST.repeat(5)).await;
    for said in ["", "", "close"] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.header("connection").as_str()), (200, said));
    }
    wire.closed().await.expect("nothing more");
    assert_eq!(worker.seen().len(), 3);
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_told_over_http_2() {
    let worker = Recorder::start();
    let gateway =
        Gateway::builder().worker(&worker).policy("[listener]\nmax_requests_per_connection = 3\n").start().await;
    let mut connection = gateway.http2().connect().await;
    let mut served = 0;
    let ended =
        eventually("the connection to end", async || match connection.try_send(gateway.http2().get("/open")).await {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                served += 1;
                None
            }
            Err(reason) => Some(reason),
        });
    let reason = ended.await;
    assert!(served >= 3, "{served}: {reason}");
    assert_eq!(gateway.http2().get("/open").send().await.status, 200, "a new connection is served");
}

#[tokio::test]
async fn a_connection_that_is_old_is_told() {
    let worker = Recorder::start();
    let young = "[listener]\nmax_connection_age = \"200ms\"\nhead_timeout = \"200ms\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(young).start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    let told = eventually("the last answer", async || {
        wire.send(REQUEST).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200);
        (answer.header("connection") == "close").then_some(())
    });
    told.await;
    wire.closed().await.expect("nothing more");
    let mut http2 = gateway.http2().connect().await;
    let ended = eventually("the connection to end", async || http2.try_send(gateway.http2().get("/open")).await.err());
    ended.await;
}
