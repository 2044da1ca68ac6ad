//! The messages of `inference.GRPCInferenceService` (kserve/open-inference-protocol, `open_inference_grpc.proto`), written
//! by hand so that building needs no `protoc`. Fields that the worker does not look at are left out; prost skips them.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// A message without fields.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Empty {}

/// `ServerLiveResponse`, `ServerReadyResponse` and `ModelReadyResponse`, which are alike.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Yes {
    /// Live, or ready.
    #[prost(bool, tag = "1")]
    pub yes: bool,
}

/// `ModelReadyRequest` and `ModelMetadataRequest`, which are alike.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelRequest {
    /// The model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version; the highest when empty.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `ServerMetadataResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerMetadata {
    /// Of the server.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of the server.
    #[prost(string, tag = "2")]
    pub version: String,
    /// What it offers beyond the core.
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

/// `ModelMetadataResponse.TensorMetadata`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TensorMetadata {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type of its elements.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its dimensions.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// `ModelMetadataResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelMetadata {
    /// The model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its versions.
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    /// The engine.
    #[prost(string, tag = "3")]
    pub platform: String,
    /// What it takes.
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    /// What it gives.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

/// `InferParameter`
#[derive(Clone, PartialEq, Message)]
pub struct Parameter {
    /// Its value.
    #[prost(oneof = "Choice", tags = "1, 2, 3")]
    pub choice: Option<Choice>,
}

/// What a parameter holds.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Choice {
    /// `bool_param`
    #[prost(bool, tag = "1")]
    Bool(bool),
    /// `int64_param`
    #[prost(int64, tag = "2")]
    Int64(i64),
    /// `string_param`
    #[prost(string, tag = "3")]
    String(String),
}

/// `InferTensorContents`
#[derive(Clone, PartialEq, Message)]
pub struct Contents {
    /// `BOOL`
    #[prost(bool, repeated, tag = "1")]
    pub bools: Vec<bool>,
    /// `INT8`, `INT16`, `INT32`
    #[prost(int32, repeated, tag = "2")]
    pub ints: Vec<i32>,
    /// `INT64`
    #[prost(int64, repeated, tag = "3")]
    pub longs: Vec<i64>,
    /// `UINT8`, `UINT16`, `UINT32`
    #[prost(uint32, repeated, tag = "4")]
    pub uints: Vec<u32>,
    /// `UINT64`
    #[prost(uint64, repeated, tag = "5")]
    pub ulongs: Vec<u64>,
    /// `FP32`
    #[prost(float, repeated, tag = "6")]
    pub singles: Vec<f32>,
    /// `FP64`
    #[prost(double, repeated, tag = "7")]
    pub doubles: Vec<f64>,
    /// `BYTES`
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub texts: Vec<bytes::Bytes>,
}

/// `InferInputTensor` and `InferOutputTensor`, which are alike.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type of its elements.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its dimensions.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    /// Of the tensor.
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, Parameter>,
    /// Its elements, unless they come as octets.
    #[prost(message, optional, tag = "5")]
    pub contents: Option<Contents>,
}

/// `InferRequestedOutputTensor`
#[derive(Clone, PartialEq, Message)]
pub struct Requested {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of the output.
    #[prost(map = "string, message", tag = "2")]
    pub parameters: HashMap<String, Parameter>,
}

/// `ModelInferRequest`
#[derive(Clone, PartialEq, Message)]
pub struct InferRequest {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Its version; the highest when empty.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// Comes back with the answer.
    #[prost(string, tag = "3")]
    pub id: String,
    /// The inputs.
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<Tensor>,
    /// The outputs that are asked for.
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<Requested>,
    /// The inputs' elements as octets.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw: Vec<bytes::Bytes>,
}

/// `ModelInferResponse`
#[derive(Clone, PartialEq, Message)]
pub struct InferResponse {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// As it came.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Of the answer.
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, Parameter>,
    /// The outputs.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<Tensor>,
    /// The outputs' elements as octets.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub raw: Vec<Vec<u8>>,
}

/// `RepositoryIndexResponse.ModelIndex`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelIndex {
    /// The model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// `READY` or `UNAVAILABLE`.
    #[prost(string, tag = "3")]
    pub state: String,
    /// Why it is not ready.
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// `RepositoryIndexResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepositoryIndex {
    /// All models.
    #[prost(message, repeated, tag = "1")]
    pub models: Vec<ModelIndex>,
}
