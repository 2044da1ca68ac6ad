//! Clients in an open loop: requests are sent on time whatever the answers do, over HTTP/1.1 and HTTP/2 in turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use harness::{Client, Connection, Gateway};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How many users ask, so that a canary by weight takes some of them.
const USERS: usize = 64;
/// How many HTTP/2 connections there are.
const SESSIONS: usize = 4;

/// How many requests they have under way at once; what is due then waits, and its time runs.
const MOST: usize = 128;

/// What came of one request.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When it was due.
    pub(crate) due: Instant,
    /// From then to the end of its answer.
    pub(crate) took: Duration,
    /// How late it was sent.
    pub(crate) late: Duration,
    pub(crate) answer: Result<Answered, String>,
}

#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) id: String,
    /// Of the model that predicted.
    pub(crate) version: Option<String>,
}

/// Clients that keep their connections, as many as they need.
pub(crate) struct Clients {
    http1: Client,
    http2: Client,
    tokens: Vec<String>,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
    sessions: Vec<tokio::sync::Mutex<Option<Connection>>>,
}

/// Flowers that every model in the proof gives the same label.
fn flower(number: usize) -> Value {
    let [sepal_length, sepal_width, petal_length, petal_width] =
        [[5.1, 3.5, 1.4, 0.2], [5.9, 2.8, 4.2, 1.3], [6.7, 3.1, 5.8, 2.3]][number % 3];
    json!({
        "sepal_length": sepal_length, "sepal_width": sepal_width,
        "petal_length": petal_length, "petal_width": petal_width,
    })
}

impl Clients {
    pub(crate) fn new(gateway: &Gateway) -> Self {
        let token =
            |user: usize| gateway.signer().token(&json!({ "sub": format!("user-{user}"), "roles": ["predictor"] }));
        Self {
            http1: gateway.client(),
            http2: gateway.http2(),
            tokens: (0..USERS).map(token).collect(),
            places: Semaphore::new(MOST),
            idle: Mutex::default(),
            sessions: (0..SESSIONS).map(|_| tokio::sync::Mutex::default()).collect(),
        }
    }

    /// Sends so many a second until it is told to stop; gives back what came of each.
    pub(crate) async fn run(self: Arc<Self>, rate: f64, mut stop: watch::Receiver<bool>) -> Vec<Outcome> {
        let begin = Instant::now();
        let mut sent = JoinSet::new();
        for number in 0_usize.. {
            let due = begin + Duration::from_secs_f64(number as f64 / rate);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = sleep_until(due) => {}
            }
            let this = Arc::clone(&self);
            sent.spawn(async move {
                let late = due.elapsed();
                let answer = this.ask(number).await;
                Outcome { due, took: due.elapsed(), late, answer }
            });
        }
        let mut outcomes = sent.join_all().await;
        outcomes.sort_by_key(|outcome| outcome.due);
        outcomes
    }

    async fn ask(&self, number: usize) -> Result<Answered, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let token = &self.tokens[number % USERS];
        let answer = if number.is_multiple_of(2) {
            let request = self.http1.post("/predict").bearer(token).json(&flower(number / 2));
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.http1.try_connect().await?,
            };
            let answer = connection.try_send(request).await?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            answer
        } else {
            let request = self.http2.post("/predict").bearer(token).json(&flower(number / 2));
            let mut session = self.sessions[number / 2 % SESSIONS].lock().await;
            let mut stream = match &*session {
                Some(connection) => connection.beside(),
                None => session.insert(self.http2.try_connect().await?).beside(),
            };
            drop(session);
            stream.try_send(request).await?
        };
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let version = body.and_then(|body| body["version"].as_str().map(str::to_owned));
        Ok(Answered { status: answer.status, id: answer.request_id(), version })
    }
}
