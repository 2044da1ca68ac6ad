//! Whether a program really does a job, asked before it is counted.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::identity;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::jobs::{FLOWER, Job};
use crate::peers::{Peer, Running};
use crate::session::Request;
use crate::wire::{field, head_length, status};
use crate::world::{ORIGIN, World, client_tls, request};

/// How many requests each principal may send while the limit is checked.
pub(crate) const QUOTA: u32 = 5;

/// An answer.
#[derive(Debug)]
struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        status(&self.head)
    }

    fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

struct Check<'world> {
    world: &'world World,
    job: &'world Job,
    address: SocketAddr,
    asked: usize,
}

/// Asks everything that the job is about. The program was started with [`QUOTA`].
///
/// # Errors
/// What it does not do.
pub(crate) fn check(peer: Peer, job: &Job, running: &Running, world: &World) -> Result<(), String> {
    let mut check = Check { world, job, address: running.address, asked: 0 };
    world.worker.record(true);
    let outcome = check.all(peer, running);
    world.worker.record(false);
    outcome
}

impl Check<'_> {
    fn all(&mut self, peer: Peer, running: &Running) -> Result<(), String> {
        let before = lines(running);
        let needs = |feature| self.job.features.contains(&feature);
        let (key, jwt, limit) = (needs("key"), needs("jwt"), needs("limit"));
        let (cors, log, schema) = (needs("cors"), needs("log"), needs("schema"));
        let good = self.good();
        if peer.is_yardstick() && self.job.refused {
            return self.expect("a request", &good, &[401]).map(drop);
        }
        let answer = self.expect("a good request", &good, &[200])?;
        if !answer.body.starts_with(b"{\"predictions\"") {
            return Err("the worker's answer does not arrive".to_owned());
        }
        let seen = self.world.worker.last();
        if !seen.contains(FLOWER) {
            return Err("the request's body does not arrive at the worker".to_owned());
        }
        if peer.is_yardstick() {
            return Ok(());
        }
        if key || jwt {
            self.credentials(key)?;
            self.identity(peer, &good, key)?;
        }
        if cors {
            self.cors(&good)?;
        }
        if schema {
            let mut wrong = good.clone();
            wrong.body = b"{\"sepal_length\":-1}".to_vec();
            self.expect("a body that breaks the schema", &wrong, &[400, 422])?;
        }
        if limit {
            self.limit()?;
        }
        if log {
            return self.log(before, running);
        }
        Ok(())
    }

    fn good(&self) -> Request {
        if self.job.features.contains(&"jwt") {
            self.bearer(&self.world.token(self.job.features, &json!({})))
        } else if self.job.features.contains(&"key") {
            request(self.job, Some(("x-api-key", identity::key(self.world.first_consumer()))))
        } else {
            request(self.job, None)
        }
    }

    fn bearer(&self, token: &str) -> Request {
        request(self.job, Some(("authorization", format!("Bearer {token}"))))
    }

    fn credentials(&mut self, key: bool) -> Result<(), String> {
        const REFUSED: &[u16] = &[401, 403];
        self.expect("a request without credential", &request(self.job, None), REFUSED)?;
        if key {
            let unknown = request(self.job, Some(("x-api-key", identity::key("stranger"))));
            self.expect("an unknown key", &unknown, REFUSED)?;
            let last = self.world.requests(&Job { credential: crate::jobs::Credential::Key, ..*self.job }).pop();
            let last = last.ok_or("there are no keys")?;
            return self.expect("the last key", &last, &[200]).map(drop);
        }
        let features = self.job.features;
        for (what, changes) in [
            ("an expired token", json!({ "exp": identity::now() - 300 })),
            ("another issuer's token", json!({ "iss": "https://other.example.com" })),
            ("a token for another audience", json!({ "aud": "other" })),
            ("a token without the role", json!({ "roles": ["reader"] })),
        ] {
            let refused = self.bearer(&self.world.token(features, &changes));
            self.expect(what, &refused, REFUSED)?;
        }
        let good = self.world.token(features, &json!({}));
        let (signed, signature) = good.rsplit_once('.').ok_or("a token has parts")?;
        let other = if signature.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{signed}.{other}{}", signature.get(1..).unwrap_or_default());
        self.expect("a forged signature", &self.bearer(&forged), REFUSED)?;
        let payload = signed.split_once('.').map_or("", |(_, payload)| payload);
        let unsigned = format!("{}.{payload}.", identity::base64url(r#"{"typ":"at+jwt","alg":"none"}"#));
        self.expect("an unsigned token", &self.bearer(&unsigned), REFUSED).map(drop)
    }

    fn identity(&mut self, peer: Peer, good: &Request, key: bool) -> Result<(), String> {
        let name = peer.identity_field();
        let mut spoofed = good.clone();
        spoofed.fields.push((name, "somebody-else".to_owned()));
        self.expect("a request with a spoofed identity", &spoofed, &[200])?;
        let seen = self.world.worker.last();
        let who = if key { self.world.first_consumer() } else { "user-00" };
        if !field(seen.as_bytes(), name).is_some_and(|value| value.contains(who)) || seen.contains("somebody-else") {
            return Err(format!("the worker does not learn who calls: {seen}"));
        }
        if ["x-api-key", "authorization"].iter().any(|name| field(seen.as_bytes(), name).is_some()) {
            return Err("the credential is passed on to the worker".to_owned());
        }
        Ok(())
    }

    fn cors(&mut self, good: &Request) -> Result<(), String> {
        const ALLOWED: &str = "access-control-allow-origin";
        let answer = self.expect("a page's request", good, &[200])?;
        if answer.field(ALLOWED) != Some(ORIGIN) {
            return Err("an allowed origin is not told so".to_owned());
        }
        let preflight = Request {
            method: "OPTIONS",
            path: "/predict",
            fields: vec![("origin", ORIGIN.to_owned()), ("access-control-request-method", "POST".to_owned())],
            body: Vec::new(),
        };
        let answer = self.expect("a preflight", &preflight, &[200, 204])?;
        if answer.field(ALLOWED) != Some(ORIGIN) || answer.field("access-control-allow-methods").is_none() {
            return Err("a preflight is not told what is allowed".to_owned());
        }
        let mut foreign = good.clone();
        foreign
            .fields
            .iter_mut()
            .filter(|(name, _)| *name == "origin")
            .for_each(|(_, value)| "https://evil.example".clone_into(value));
        if self.ask(&foreign)?.field(ALLOWED).is_some() {
            return Err("a foreign origin is allowed".to_owned());
        }
        Ok(())
    }

    fn limit(&mut self) -> Result<(), String> {
        let one = self.bearer(&self.world.token(self.job.features, &json!({ "sub": "eager" })));
        let statuses: Result<Vec<u16>, String> = (0..QUOTA * 2 + 2).map(|_| Ok(self.ask(&one)?.status())).collect();
        let statuses = statuses?;
        let (good, refused) = statuses.split_at(QUOTA as usize);
        if good.iter().any(|status| *status != 200) || refused.last() != Some(&429) {
            return Err(format!("a limit of {QUOTA} gave {statuses:?}"));
        }
        let other = self.bearer(&self.world.token(self.job.features, &json!({ "sub": "modest" })));
        self.expect("another principal", &other, &[200]).map(drop)
    }

    fn log(&self, before: usize, running: &Running) -> Result<(), String> {
        let begin = Instant::now();
        // Logs may be written late, but not never.
        while lines(running) < before + self.asked {
            if begin.elapsed() > Duration::from_secs(12) {
                return Err(format!("{} requests gave {} log lines", self.asked, lines(running) - before));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = std::fs::read_to_string(&running.log).unwrap_or_default();
        // A record of a request, among what else a log says.
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = records.any(|record| record["status"].is_u64());
        let who = [self.world.first_consumer(), "user-00"];
        let named = who.iter().any(|who| text.contains(who)) && text.contains("/predict");
        if said && named { Ok(()) } else { Err("no line of its log says what happened".to_owned()) }
    }

    fn expect(&mut self, what: &str, request: &Request, statuses: &[u16]) -> Result<Answer, String> {
        let answer = self.ask(request)?;
        let status = answer.status();
        let text = String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
        if statuses.contains(&status) { Ok(answer) } else { Err(format!("{what} gives {status} {text}")) }
    }

    /// One request on a connection of its own.
    fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        self.asked += 1;
        ask(self.address, request, self.job.post_quantum).map_err(|error| format!("a request fails: {error}"))
    }
}

fn ask(address: SocketAddr, request: &Request, post_quantum: bool) -> std::io::Result<Answer> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    let client = ClientConnection::new(Arc::clone(&client_tls(false, post_quantum)), name);
    let mut stream = StreamOwned::new(client.map_err(std::io::Error::other)?, socket);
    stream.write_all(&request.http1())?;
    let (mut octets, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(length) = head_length(&octets) {
            let body = octets.get(length..).unwrap_or_default().to_vec();
            let head = octets.get(..length).unwrap_or_default();
            let whole = match field(head, "content-length") {
                Some(length) => length.parse().is_ok_and(|length: usize| body.len() >= length),
                None => field(head, "transfer-encoding").is_none() || body.ends_with(b"0\r\n\r\n"),
            };
            if whole {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                return Ok(Answer { head: head.to_vec(), body });
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => octets.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn lines(running: &Running) -> usize {
    std::fs::read_to_string(&running.log).unwrap_or_default().lines().count()
}
