//! The Open Inference Protocol over gRPC: HTTP/2 without TLS, frames and trailers, spoken to the real binary.

use std::collections::HashMap;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model_worker::api::grpc::message::{
    Choice, Contents, InferRequest, InferResponse, ModelMetadata, ModelRequest, RepositoryIndex, Requested,
    ServerMetadata, Tensor, Yes,
};
use prost::Message;

use super::support::{Worker, World};

/// A message's answer: status, status text, the message's octets.
pub(crate) type Answer = (String, String, Vec<u8>);

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[0][..], &length, message].concat()
}

pub(crate) fn call_with(worker: &Worker, name: &str, header: Option<(&str, &str)>, body: Vec<u8>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(worker.address()).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::post(format!("http://worker/inference.GRPCInferenceService/{name}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let reply = sender.send_request(request).await.expect("an answer");
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["content-type"]),
            (200, &"application/grpc".parse().expect("a value"))
        );
        let head = reply.headers().clone();
        let collected = reply.into_body().collect().await.expect("a body");
        let trailers = collected.trailers().cloned().unwrap_or_else(|| {
            head.into_iter().filter_map(|(name, value)| Some((name?, value))).collect::<HeaderMap>()
        });
        let text =
            |name: &str| trailers.get(name).map_or(String::new(), |value| value.to_str().expect("text").to_owned());
        let bytes = collected.to_bytes();
        (text("grpc-status"), text("grpc-message"), bytes.get(5..).unwrap_or_default().to_vec())
    })
}

fn call<M: Message + Default>(worker: &Worker, name: &str, message: &impl Message) -> Result<M, (String, String)> {
    let (status, text, bytes) = call_with(worker, name, None, framed(&message.encode_to_vec()));
    if status == "0" { Ok(M::decode(bytes.as_slice()).expect("a message")) } else { Err((status, text)) }
}

fn input(shape: &[i64], datatype: &str) -> Tensor {
    Tensor {
        name: "x".to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        parameters: HashMap::new(),
        contents: None,
    }
}

pub(crate) fn request(inputs: Vec<Tensor>, raw: Vec<Bytes>) -> InferRequest {
    InferRequest { model_name: "iris".to_owned(), id: "abc".to_owned(), inputs, raw, ..InferRequest::default() }
}

fn model(name: &str) -> ModelRequest {
    ModelRequest { name: name.to_owned(), version: String::new() }
}

#[test]
fn the_server_and_its_models_answer_for_themselves() {
    let worker = World::new().serve("");
    assert!(call::<Yes>(&worker, "ServerLive", &()).expect("live").yes);
    assert!(call::<Yes>(&worker, "ServerReady", &()).expect("ready").yes);
    assert!(call::<Yes>(&worker, "ModelReady", &model("iris")).expect("ready").yes);
    assert!(!call::<Yes>(&worker, "ModelReady", &model("rose")).expect("an answer").yes);
    let server: ServerMetadata = call(&worker, "ServerMetadata", &()).expect("metadata");
    assert_eq!(server.name, "modelgate-worker");
    let metadata: ModelMetadata = call(&worker, "ModelMetadata", &model("iris")).expect("metadata");
    assert_eq!((metadata.versions, metadata.inputs[0].shape.as_slice()), (vec!["1".to_owned()], [-1, 4].as_slice()));
    assert_eq!(metadata.outputs.len(), 3);
    let index: RepositoryIndex = call(&worker, "RepositoryIndex", &()).expect("an index");
    assert_eq!(index.models[0].state, "READY");
    assert_eq!(call::<ModelMetadata>(&worker, "ModelMetadata", &model("rose")).expect_err("unknown").0, "5");
    assert_eq!(call::<Yes>(&worker, "Nothing", &()).expect_err("unknown").0, "12");
}

#[test]
fn typed_contents_are_answered_with_typed_contents_and_raw_with_raw() {
    let worker = World::new().serve("");
    let row = [5.1_f32, 3.5, 1.4, 9.0];
    let typed =
        Tensor { contents: Some(Contents { singles: row.to_vec(), ..Contents::default() }), ..input(&[1, 4], "FP32") };
    let answer: InferResponse = call(&worker, "ModelInfer", &request(vec![typed], vec![])).expect("predicted");
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()), ("iris", "1", "abc"));
    let contents: Vec<&Contents> = answer.outputs.iter().filter_map(|output| output.contents.as_ref()).collect();
    assert_eq!(
        (contents[0].longs.as_slice(), contents[1].texts.len(), contents[2].singles.len()),
        ([2].as_slice(), 1, 3)
    );
    let flagged = answer.parameters["out_of_training_range"].choice.clone();
    assert_eq!(flagged, Some(Choice::String("petal_width".to_owned())));
    let raw: Vec<u8> = row.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut asked = request(vec![input(&[1, 4], "FP32")], vec![raw.into()]);
    asked.outputs = vec![Requested { name: "label".to_owned(), parameters: HashMap::new() }];
    let answer: InferResponse = call(&worker, "ModelInfer", &asked).expect("predicted");
    assert_eq!((answer.outputs.len(), answer.raw), (1, vec![2_i64.to_le_bytes().to_vec()]));
    assert_eq!(answer.outputs[0].contents, None);
}

#[test]
fn a_clients_fault_is_an_invalid_argument_with_its_place() {
    let worker = World::new().serve("");
    let raw = |bytes: &[u8]| vec![Bytes::copy_from_slice(bytes)];
    for (request, status, place) in [
        (request(vec![], vec![]), "3", "/inputs"),
        (request(vec![input(&[1, 4], "FP32")], vec![]), "3", "/inputs/0/contents"),
        (request(vec![input(&[1, 4], "FP32")], raw(&[0; 15])), "3", "/inputs/0/data"),
        (request(vec![input(&[1, 4], "FP32")], raw(&[0; 12])), "3", "/inputs/0/data"),
        (request(vec![input(&[1, 4], "FP32")], raw(&[0xff; 16])), "3", "/inputs/0/data/0"),
        (request(vec![input(&[1, -4], "FP32")], raw(&[0; 16])), "3", "/inputs/0/shape"),
        (request(vec![input(&[1, 4], "secret")], raw(&[0; 16])), "3", "/inputs/0/datatype"),
        (request(vec![input(&[1, 4], "FP32")], raw(&[0; 16])), "11", "/inputs/0/data/0"),
        (request(vec![input(&[1, 4], "FP32"); 2], raw(&[0; 16])), "3", "/raw_input_contents"),
        (InferRequest { model_version: "9".to_owned(), ..request(vec![], vec![]) }, "5", "no such model"),
    ] {
        let refused = call::<InferResponse>(&worker, "ModelInfer", &request).expect_err("refused");
        assert!(refused.0 == status && refused.1.contains(place), "{refused:?} {place}");
        assert!(!refused.1.contains("secret"));
    }
    for (body, status) in
        [(vec![], "3"), (vec![0, 0, 0, 0, 9], "3"), (framed(&[0xff; 9]), "3"), (vec![1, 0, 0, 0, 0], "12")]
    {
        assert_eq!(call_with(&worker, "ModelInfer", None, body.clone()).0, status, "{body:?}");
    }
    let raw: Vec<u8> = [5.1_f32, 3.5, 1.4, 0.2].iter().flat_map(|number| number.to_le_bytes()).collect();
    let message = framed(&request(vec![input(&[1, 4], "FP32")], vec![raw.into()]).encode_to_vec());
    assert_eq!(call_with(&worker, "ModelInfer", Some(("grpc-timeout", "1n")), message.clone()).0, "4");
    assert_eq!(call_with(&worker, "ModelInfer", Some(("grpc-timeout", "10S")), message).0, "0");
}
