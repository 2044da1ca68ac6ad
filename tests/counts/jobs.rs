//! The requests that are counted: each job is one kind, sent again and again on one kept connection.

use harness::frames::{Answered, Ended, Frames, PREFACE, flag, frame, integer, kind, settings, string, window_update};
use harness::identity::key;
use harness::{Gateway, Wire};
use serde_json::json;

/// The routes of the jobs, laid over the base policy.
pub(crate) const POLICY: &str = r#"
# One thread, and no hurry: the gateway runs many times slower than it is made for.
[listener]
threads = 1
handshake_timeout = "30s"
head_timeout = "30s"
[pools.models]
connect_timeout = "30s"
answer_timeout = "30s"

[routes.count-forward]
path = "/count/forward"
methods = ["POST"]
pool = "models"
worker_path = "/models/iris/predict"
authenticate = "anonymous"
authorize = "anonymous"
limits = []
body = { format = "opaque", content_types = ["application/json"] }

[routes.count-limit]
path = "/count/limit"
methods = ["POST"]
pool = "models"
worker_path = "/models/iris/predict"
authorize = ["predictor"]
body = { format = "opaque", content_types = ["application/json"] }

[routes.count-key]
path = "/count/key"
methods = ["POST"]
pool = "models"
worker_path = "/models/iris/predict"
authorize = ["predictor"]
cors = "browser"
limits = []
body = { format = "opaque", content_types = ["application/json"] }
"#;

const FLOWER: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;

/// One kind of request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// As it is recorded.
    pub(crate) name: &'static str,
    path: &'static str,
    credential: Credential,
    http2: bool,
    /// Whether limits are held in Redis.
    pub(crate) redis: bool,
    status: u16,
    /// A header that says that the work was done.
    sign: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Credential {
    Nothing,
    Key,
    WrongKey,
    Token,
}

/// In the order in which they are counted.
pub(crate) const JOBS: [Job; 6] = [
    // Nothing but the forwarding and the record.
    Job {
        name: "forward",
        path: "/count/forward",
        credential: Credential::Nothing,
        http2: false,
        redis: false,
        status: 200,
        sign: "content-type",
    },
    // An API key and CORS.
    Job {
        name: "api-key",
        path: "/count/key",
        credential: Credential::Key,
        http2: false,
        redis: false,
        status: 200,
        sign: "access-control-allow-origin",
    },
    // A token that was seen before, a limit, a JSON Schema and CORS.
    Job {
        name: "jwt-limit-schema",
        path: "/predict",
        credential: Credential::Token,
        http2: false,
        redis: false,
        status: 200,
        sign: "ratelimit",
    },
    // A key that nobody has, charged to the address.
    Job {
        name: "bad-key",
        path: "/predict",
        credential: Credential::WrongKey,
        http2: false,
        redis: false,
        status: 401,
        sign: "www-authenticate",
    },
    // As `api-key`, one stream after the other.
    Job {
        name: "http2-api-key",
        path: "/count/key",
        credential: Credential::Key,
        http2: true,
        redis: false,
        status: 200,
        sign: "",
    },
    // A token and a limit that Redis holds, which is asked for this request alone.
    Job {
        name: "jwt-limit-in-redis",
        path: "/count/limit",
        credential: Credential::Token,
        http2: false,
        redis: true,
        status: 200,
        sign: "ratelimit",
    },
];

impl Job {
    /// Whether its requests reach the worker.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.status == 200
    }

    fn fields(&self, gateway: &Gateway) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("user-agent", "counts/1".to_owned()),
            ("accept", "*/*".to_owned()),
            ("origin", "https://app.example.com".to_owned()),
            ("content-type", "application/json".to_owned()),
            ("content-length", FLOWER.len().to_string()),
        ];
        fields.extend(match self.credential {
            Credential::Nothing => None,
            Credential::Key => Some(("x-api-key", key("predictor"))),
            Credential::WrongKey => Some(("x-api-key", key("stranger"))),
            Credential::Token => Some(("authorization", format!("Bearer {}", gateway.signer().token(&json!({}))))),
        });
        fields
    }

    /// Opens the connection.
    pub(crate) async fn open(&self, gateway: &Gateway) -> Line {
        let host = gateway.address().to_string();
        let fields = self.fields(gateway);
        if self.http2 {
            let pseudo = [("method", "POST"), ("scheme", "https"), ("authority", &host), ("path", self.path)];
            let pseudo = pseudo.map(|(name, value)| (format!(":{name}"), value.to_owned()));
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
            let fields: Vec<_> = pseudo.into_iter().chain(fields).collect();
            let mut frames = Frames::open(&gateway.http2()).await;
            // Room for every answer, so that none waits for more.
            let begin = [PREFACE, &settings(&[]), &window_update(0, 1 << 30)].concat();
            frames.send(begin).await.expect("a new connection takes what is sent");
            return Line::Http2 { job: *self, frames, fields, stream: 1 };
        }
        let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        let request = format!("POST {} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n{FLOWER}", self.path);
        Line::Http1 { job: *self, wire: Wire::open(&gateway.client()).await, request }
    }
}

/// A job's connection.
pub(crate) enum Line {
    Http1 { job: Job, wire: Wire, request: String },
    Http2 { job: Job, frames: Frames, fields: Vec<(String, String)>, stream: u32 },
}

impl Line {
    /// Sends so many requests, each after the answer to the one before.
    pub(crate) async fn send(&mut self, count: u32) {
        for _ in 0..count {
            match self {
                Self::Http1 { job, wire, request } => {
                    wire.send(request.as_bytes()).await;
                    let answer = wire.answer().await;
                    assert_eq!(answer.status, job.status, "{}: {}", job.name, answer.text());
                    assert_ne!(answer.header(job.sign), "", "{}: no {}", job.name, job.sign);
                }
                Self::Http2 { job, frames, fields, stream } => {
                    let head = frame(kind::HEADERS, flag::END_HEADERS, *stream, block(fields, *stream == 1));
                    let request = [head, frame(kind::DATA, flag::END_STREAM, *stream, FLOWER)].concat();
                    frames.send(request).await.expect("the connection takes what is sent");
                    let ended = frames.ended(*stream).await;
                    let status = job.status;
                    assert!(
                        matches!(&ended, Ended::Answered(Answered { status: got, .. }) if *got == status),
                        "{ended:?}"
                    );
                    *stream += 2;
                }
            }
        }
    }
}

/// A head as browsers compress it (RFC 7541 §6.1, §6.2.1): the first request fills the table, and each one after it
/// names what is there, where the newest is 62.
fn block(fields: &[(String, String)], first: bool) -> Vec<u8> {
    let literal =
        |(name, value): &(String, String)| [&[0x40][..], &string(name.as_bytes()), &string(value.as_bytes())].concat();
    if first {
        return fields.iter().flat_map(literal).collect();
    }
    (0..fields.len()).rev().flat_map(|behind| integer(0x80, 7, 62 + behind)).collect()
}
