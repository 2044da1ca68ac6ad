//! A real browser, and pages for it: what the CORS headers are for.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::ca::TestCa;
use crate::process::Process;

/// A small plain-HTTP server with one page, which reports by `POST /report`.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    html: Arc<Mutex<String>>,
    reports: mpsc::UnboundedReceiver<Value>,
    task: JoinHandle<()>,
}

impl Page {
    /// Takes a port; what stands on the page may be known later.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let html = Arc::new(Mutex::new(String::new()));
        let (sender, reports) = mpsc::unbounded_channel();
        let task = tokio::spawn({
            let html = Arc::clone(&html);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&html), sender.clone()));
                }
            }
        });
        Self { address, html, reports, task }
    }

    /// The origin of its page, as browsers send it.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shows a script that fills `report`, and sends that back when it is done.
    pub fn show(&self, script: &str) {
        let page = format!(
            "<!doctype html><meta charset=utf-8><title>A page</title><script type=module>\n{script}\n\
             await fetch('/report', {{ method: 'POST', body: JSON.stringify(report) }});\n</script>"
        );
        *self.html.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }

    /// What the page reports when Chromium opens it.
    ///
    /// # Panics
    /// If it reports nothing; with what Chromium said.
    pub async fn report(&mut self) -> Value {
        let browser = Browser::open(&self.origin());
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.ok().flatten().unwrap_or_else(|| panic!("the page reports nothing:\n{}", browser.process.log().text()))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, html: Arc<Mutex<String>>, reports: mpsc::UnboundedSender<Value>) {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase().split_once("content-length: ").map(|(_, rest)| rest.to_owned());
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok()).unwrap_or(0);
            if body.len() >= length {
                break;
            }
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if text.starts_with("POST /report ") {
        let _ = reports.send(serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)));
    }
    let page = if text.starts_with("GET / ") {
        html.lock().unwrap_or_else(PoisonError::into_inner).clone()
    } else {
        String::new()
    };
    let length = page.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all((head + &page).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A headless Chromium with a profile of its own, which trusts the test's certificate.
struct Browser {
    process: Process,
    _profile: TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let key = rcgen::KeyPair::from_pem(&TestCa::shared().private_key).expect("the test's key");
        let pin = BASE64_STANDARD.encode(digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&key)));
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.args(["--disable-sync", "--remote-debugging-port=0", "--host-resolver-rules=MAP localhost 127.0.0.1"]);
        command.arg(format!("--ignore-certificate-errors-spki-list={pin}"));
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        command.env("HOME", profile.path());
        Self { process: Process::start(&mut command), _profile: profile }
    }
}
