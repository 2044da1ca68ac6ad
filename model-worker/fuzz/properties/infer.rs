//! A request of the Open Inference Protocol: over REST, JSON and what is behind it, or over gRPC. It is refused as the
//! client's fault, or answered with as many rows as it has.

use std::sync::OnceLock;
use std::time::Instant;

use model_worker::api::grpc::{self, message::InferRequest};
use model_worker::api::score::Terms;
use model_worker::api::{rows, v2};
use model_worker::body;
use model_worker::catalog::Served;
use model_worker::metrics::{Counts, Protocol};
use model_worker::model;
use model_worker::problem::Refusal;
use prost::Message;

fn served() -> &'static [Served; 2] {
    static SERVED: OnceLock<[Served; 2]> = OnceLock::new();
    SERVED.get_or_init(|| {
        let (_, iris) = model_worker::train::iris::train(1, 1, &mut |_| {}).expect("trained");
        let sentiment: &[u8] = include_bytes!("../../models/sentiment/1.model");
        [("iris", iris.as_slice()), ("sentiment", sentiment)].map(|(name, bytes)| {
            let model = model::load(bytes).expect("loads");
            Served { name: name.to_owned(), version: "1".to_owned(), counts: Counts::new(model.card()), model }
        })
    })
}

fn terms() -> Terms {
    Terms { max_rows: 100, strict: false, deadline: None, begun: Instant::now(), protocol: Protocol::Rest }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn refused(refusal: &Refusal) {
    assert!(refusal.status().is_client_error(), "{refusal:?}");
}

/// The first octet chooses the model and the protocol, and where the JSON ends.
pub(crate) fn check(octets: &[u8]) {
    let Some((choice, body)) = octets.split_first() else {
        return;
    };
    let served = &served()[usize::from(choice & 1)];
    if choice & 2 != 0 {
        if let Err(refusal) = grpc::size::check(body, 100, 4) {
            refused(&refusal);
        } else if let Ok(request) = InferRequest::decode(body) {
            match run(grpc::infer(served, &request, terms())) {
                Ok(answer) => assert_eq!(answer.raw.is_empty(), request.raw.is_empty()),
                Err(refusal) => refused(&refusal),
            }
        }
        return;
    }
    // JSON ends at the last brace, so that what follows can be octets.
    let json = (choice & 4 != 0).then(|| body.iter().rposition(|octet| *octet == b'}').map_or(0, |at| at + 1));
    match run(v2::infer(served, body, json, terms())) {
        Ok((answer, json)) => {
            let json = answer.get(..json.unwrap_or(answer.len())).expect("within the answer");
            let json: serde_json::Value = serde_json::from_slice(json).expect("the answer is JSON");
            assert_eq!(json["model_name"], served.name.as_str());
        }
        Err(refusal) => refused(&refusal),
    }
}

/// `POST /predict`.
pub(crate) fn check_predict(octets: &[u8]) {
    let Ok(json) = body::parse(octets) else {
        return;
    };
    for served in served() {
        match run(rows::predict(served, &json, terms())) {
            Ok(answer) => drop(serde_json::from_slice::<serde_json::Value>(&answer).expect("the answer is JSON")),
            Err(refusal) => refused(&refusal),
        }
    }
}
