//! Who may change things through the admin listener, and see what callers did.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::client::Answer;
use harness::wire::plain;
use harness::{Gateway, GatewayBuilder, Recorder, Redis, Wire, binary};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What changes things, or shows what callers did.
const BARRED: [(&str, &str); 9] = [
    ("PUT", "/reload"),
    ("GET", "/keys"),
    ("PUT", "/keys/team-a"),
    ("PUT", "/keys/team-a/rotate"),
    ("DELETE", "/keys/team-a"),
    ("GET", "/limits"),
    ("DELETE", "/limits?principal=key:reader"),
    ("PUT", "/pools/models/workers"),
    ("POST", "/pools"),
];

/// Asks over TCP, with more headers.
async fn ask(gateway: &Gateway, method: &str, path: &str, host: &str, more: &str) -> Answer {
    let stream = tokio::net::TcpStream::connect(gateway.admin()).await.expect("the port is open");
    let mut wire = Wire::over(stream);
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")).await;
    wire.answer().await
}

fn command(words: &[&str], environment: &[(&str, &str)]) -> Output {
    let environment = environment.iter().copied();
    Command::new(binary("gateway")).args(words).env_clear().envs(environment).output().expect("it runs")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[tokio::test]
async fn over_tcp_nobody_changes_anything_or_sees_what_callers_did() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let policy = "[api_key]\nstore = \"redis\"\n";
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).start().await;
    for (method, path) in BARRED {
        let answer = plain(gateway.admin(), method, path).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        assert!(answer.text().contains("admin.sock"), "it says what to do: {}", answer.text());
        let guessed = ask(&gateway, method, path, "localhost", "Authorization: Bearer \r\n").await;
        assert_eq!(guessed.status, 403, "{method} {path}");
    }
    for path in ["/livez", "/metrics", "/pools"] {
        assert_eq!(plain(gateway.admin(), "GET", path).await.status, 200, "{path}");
    }
    assert_eq!(ask(&gateway, "GET", "/pools", "evil.example.com", "").await.status, 403, "a page that names it");
    let done = gateway.log().matching(|line| line["event"] == "reloaded" || line["event"] == "limits-reset");
    assert!(done.is_empty(), "{done:?}");
    assert_eq!(gateway.operate("GET", "/keys").await.status, 200);
    let words = ["key", "list", "--admin", &gateway.admin().to_string()];
    let refused = command(&words, &[("TMPDIR", "/nowhere")]);
    assert_eq!(refused.status.code(), Some(69));
    assert!(text(&refused.stderr).contains("ask through its socket"), "{}", text(&refused.stderr));
}

#[tokio::test]
async fn who_shows_the_secret_may_over_tcp() {
    let worker = Recorder::start();
    let overlay = "[admin]\nsecret = { env = \"ADMIN_SECRET\" }\n";
    let builder = Gateway::builder().worker(&worker).policy(overlay).variable("ADMIN_SECRET", SECRET);
    let gateway = builder.file("secret", SECRET).file("wrong", "x".repeat(32)).start().await;
    for (method, path) in BARRED {
        let answer = plain(gateway.admin(), method, path).await;
        assert_eq!((answer.status, answer.header("www-authenticate").as_str()), (401, "Bearer"), "{method} {path}");
    }
    let header = format!("Authorization: Bearer {SECRET}\r\n");
    assert_eq!(ask(&gateway, "PUT", "/reload", "gateway.internal", &header).await.status, 200);
    assert_eq!(ask(&gateway, "PUT", "/reload", "localhost", &format!("{header}{header}")).await.status, 401, "twice");
    let address = gateway.admin().to_string();
    for (file, code) in [("secret", 0), ("wrong", 69)] {
        let file = gateway.directory().join(file).display().to_string();
        let done = command(&["limits", "show", "--admin", &address, "--admin-secret", &file], &[]);
        assert_eq!(done.status.code(), Some(code), "{}", text(&done.stderr));
    }
    assert_eq!(gateway.operate("GET", "/limits").await.status, 200, "and whoever comes through the socket");
}

#[tokio::test]
async fn without_a_credential_it_is_open_only_where_that_is_written() {
    let gateway = Gateway::builder().policy("[admin]\ndanger_no_credential = true\n").start().await;
    assert_eq!(plain(gateway.admin(), "GET", "/limits").await.status, 200);
    assert_eq!(ask(&gateway, "PUT", "/reload", "evil.example.com", "").await.status, 403, "not to pages");
}

/// One that makes its socket where commands look for it, below this directory.
fn usual(directory: &Path) -> GatewayBuilder {
    let directory = directory.to_str().expect("text");
    Gateway::builder().policy("[admin]\nsocket = \"auto\"\n").variable("XDG_RUNTIME_DIR", directory)
}

#[tokio::test]
async fn commands_of_the_same_user_find_the_socket_by_the_port() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut gateway = usual(directory.path()).start().await;
    let socket = directory.path().join(format!("modelgate/admin-{}.sock", gateway.admin().port()));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().expect("a directory"))), (0o600, 0o700));
    let place = directory.path().to_str().expect("text").to_owned();
    let reload = ["reload", "--admin", &gateway.admin().to_string()];
    let done = command(&reload, &[("XDG_RUNTIME_DIR", &place)]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let elsewhere = command(&reload, &[("TMPDIR", "/nowhere")]);
    assert!(text(&elsewhere.stderr).contains(&socket.display().to_string()), "{}", text(&elsewhere.stderr));
    assert!(gateway.stop().await.success());
    assert!(!socket.exists(), "it is gone with its gateway");
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = directory.path().join("modelgate");
    fs::create_dir(&made).expect("it can be made");
    fs::set_permissions(&made, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let gateway = usual(directory.path()).variable("TMPDIR", "/nowhere").start().await;
    let missing = gateway.log().event("admin-socket-missing").await;
    assert!(missing["cause"].as_str().is_some_and(|cause| cause.contains("this user's own")), "{missing}");
    assert_eq!(plain(gateway.admin(), "GET", "/livez").await.status, 200, "it serves");
    let refused = plain(gateway.admin(), "PUT", "/reload").await;
    assert!(refused.status == 403 && refused.text().contains("it has no socket"), "{}", refused.text());
    // Nor does a command trust what stands there.
    let fake = made.join(format!("admin-{}.sock", gateway.admin().port()));
    let _listener = std::os::unix::net::UnixListener::bind(&fake).expect("it can be made");
    let place = directory.path().to_str().expect("text");
    let words = ["reload", "--admin", &gateway.admin().to_string()];
    let done = command(&words, &[("XDG_RUNTIME_DIR", place), ("TMPDIR", "/nowhere")]);
    assert!(text(&done.stderr).contains("it has no socket"), "{}", text(&done.stderr));
}

#[tokio::test]
async fn a_socket_that_is_left_over_makes_way_and_one_that_is_used_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| -> PathBuf { directory.path().join(name) };
    let with = |path: &Path| Gateway::builder().policy(format!("[admin]\nsocket = {path:?}\n"));
    drop(std::os::unix::net::UnixListener::bind(at("left.sock")).expect("it can be made"));
    let gateway = with(&at("left.sock")).start().await;
    let words = ["reload", "--admin", &at("left.sock").display().to_string()];
    assert!(command(&words, &[]).status.success());
    fs::write(at("file"), "kept").expect("it can be written");
    for (path, said) in [
        (at("left.sock"), "is in use by another program"),
        (at("file"), "a file that is no socket is in its place"),
        (at("none/admin.sock"), "make its directory"),
    ] {
        let output = with(&path).output("run");
        assert_eq!(output.status.code(), Some(69));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_to_string(at("file")).expect("it is there"), "kept");
    assert_eq!(command(&words, &[]).status.code(), Some(0), "the one that runs goes on");
    drop(gateway);
}

#[test]
fn what_is_wrong_with_it_is_said_at_the_start() {
    for (overlay, said) in [
        ("socket = \"admin\"", "which is no path"),
        ("secret = \"written out\"", "a secret must only be referred to"),
        ("secret = { env = \"SHORT\" }", "is shorter than 32 octets"),
    ] {
        let output =
            Gateway::builder().policy(format!("[admin]\n{overlay}\n")).variable("SHORT", "short").output("check");
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}
