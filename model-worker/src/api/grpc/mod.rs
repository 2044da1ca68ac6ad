//! The Open Inference Protocol over gRPC: the same questions and answers as over REST, on the same listener.

pub mod message;
pub mod size;
pub mod wire;

use std::borrow::Cow;
use std::collections::HashMap;

use self::message::{
    Choice, Contents, InferRequest, InferResponse, ModelIndex, ModelMetadata, Parameter, RepositoryIndex, Requested,
    ServerMetadata, TensorMetadata,
};
use super::score::{Scored, Terms, score};
use super::v2::answer::{Output, choose, names, scores, single, unusual};
use super::v2::binary;
use super::v2::metadata::{self, Signature};
use super::v2::request::Wanted;
use super::v2::tensor::{Data, Datatype, Tensor, rows};
use crate::catalog::{Catalog, Served};
use crate::problem::Refusal;

/// `ServerMetadata`
#[must_use]
pub fn server() -> ServerMetadata {
    ServerMetadata {
        name: metadata::SERVER.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: metadata::EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// `ModelMetadata`
#[must_use]
pub fn model(catalog: &Catalog, served: &Served) -> ModelMetadata {
    let tensor = |signature: Signature| TensorMetadata {
        name: signature.name.to_owned(),
        datatype: signature.datatype.to_owned(),
        shape: signature.shape.to_vec(),
    };
    ModelMetadata {
        name: served.name.clone(),
        versions: catalog.versions(&served.name).map(str::to_owned).collect(),
        platform: metadata::platform(&served.model).to_owned(),
        inputs: vec![tensor(metadata::input(&served.model))],
        outputs: metadata::outputs(&served.model).map(tensor).collect(),
    }
}

/// `RepositoryIndex`
#[must_use]
pub fn index(catalog: &Catalog) -> RepositoryIndex {
    let entry = |name: &str, version: &str, state: &str, reason: &str| ModelIndex {
        name: name.to_owned(),
        version: version.to_owned(),
        state: state.to_owned(),
        reason: reason.to_owned(),
    };
    let ready = catalog.all().map(|served| entry(&served.name, &served.version, "READY", ""));
    let refused = catalog.refused().iter().map(|of| entry(&of.name, &of.version, "UNAVAILABLE", &of.why));
    RepositoryIndex { models: ready.chain(refused).collect() }
}

/// Elements that came typed; of each datatype in its own list.
#[expect(clippy::cast_precision_loss, reason = "features are f64: the nearest is taken")]
fn typed<'a>(contents: &'a Contents, datatype: Datatype, place: usize) -> Result<Data<'a>, Refusal> {
    Ok(match datatype {
        Datatype::Bool => Data::Bools(contents.bools.len()),
        Datatype::Int(8, true) => Data::Numbers(contents.longs.iter().map(|number| *number as f64).collect()),
        Datatype::Int(8, false) => Data::Numbers(contents.ulongs.iter().map(|number| *number as f64).collect()),
        Datatype::Int(_, true) => Data::Numbers(contents.ints.iter().map(|number| f64::from(*number)).collect()),
        Datatype::Int(_, false) => Data::Numbers(contents.uints.iter().map(|number| f64::from(*number)).collect()),
        Datatype::Float(8) => Data::Numbers(contents.doubles.clone()),
        Datatype::Float(4) => Data::Numbers(contents.singles.iter().map(|number| f64::from(*number)).collect()),
        Datatype::Float(_) => {
            return Err(Refusal::invalid(
                format!("/inputs/{place}/contents"),
                "wrong-type",
                "FP16 comes as raw contents only",
            ));
        }
        Datatype::Bytes => {
            let text = |bytes: &'a bytes::Bytes| str::from_utf8(bytes).ok().map(Cow::Borrowed);
            let texts: Option<_> = contents.texts.iter().map(text).collect();
            Data::Texts(texts.ok_or_else(|| {
                Refusal::invalid(format!("/inputs/{place}/contents/bytes_contents"), "wrong-type", "expected UTF-8")
            })?)
        }
    })
}

fn tensors(request: &InferRequest) -> Result<Vec<Tensor<'_>>, Refusal> {
    let raw = !request.raw.is_empty();
    if raw && request.raw.len() != request.inputs.len() {
        let detail = "expected one entry for each input";
        return Err(Refusal::invalid("/raw_input_contents", "wrong-count", detail));
    }
    let mut tensors = Vec::with_capacity(request.inputs.len());
    for (index, input) in request.inputs.iter().enumerate() {
        let wrong =
            |member: &str, detail: &str| Refusal::invalid(format!("/inputs/{index}/{member}"), "wrong-type", detail);
        let datatype = Datatype::parse(&input.datatype)
            .ok_or_else(|| wrong("datatype", "expected a type of the protocol, such as FP64"))?;
        if input.parameters.contains_key("shared_memory_region") {
            return Err(wrong("parameters/shared_memory_region", "there is no shared memory"));
        }
        let shape: Result<Vec<u64>, _> = input.shape.iter().map(|size| u64::try_from(*size)).collect();
        let shape = shape.map_err(|_| wrong("shape", "expected whole numbers"))?;
        let data = match (&input.contents, request.raw.get(index)) {
            (Some(_), Some(_)) => return Err(wrong("contents", "expected contents or raw contents, not both")),
            (Some(contents), None) => typed(contents, datatype, index)?,
            (None, Some(octets)) => binary::decode(datatype, octets, index)?,
            (None, None) => return Err(wrong("contents", "the input has no data")),
        };
        tensors.push(Tensor { place: index, name: Cow::Borrowed(&input.name), datatype, shape, data });
    }
    Ok(tensors)
}

fn wanted(outputs: &[Requested]) -> Result<Wanted, Refusal> {
    for (index, output) in outputs.iter().enumerate() {
        for parameter in ["classification", "shared_memory_region"] {
            if output.parameters.contains_key(parameter) {
                let at = format!("/outputs/{index}/parameters/{parameter}");
                return Err(Refusal::invalid(at, "not-offered", "this worker does not do that"));
            }
        }
    }
    Ok(Wanted { outputs: outputs.iter().map(|output| (output.name.clone(), false)).collect(), binary: false })
}

fn contents(output: Output, scored: &Scored<'_>) -> Contents {
    let mut contents = Contents::default();
    match output {
        Output::Label => contents.longs = scored.classes().filter_map(|class| i64::try_from(class).ok()).collect(),
        Output::ClassName => {
            contents.texts = names(scored).map(|name| bytes::Bytes::copy_from_slice(name.as_bytes())).collect();
        }
        Output::Probabilities => contents.singles = scored.probabilities.iter().map(|number| single(*number)).collect(),
        Output::Score => contents.singles = scores(scored).collect(),
    }
    contents
}

/// `ModelInfer`: typed contents are answered with typed contents, raw with raw.
///
/// # Errors
///
/// The place of what is wrong with the request.
pub async fn infer(served: &Served, request: &InferRequest, terms: Terms) -> Result<InferResponse, Refusal> {
    let raw = !request.raw.is_empty();
    let chosen = choose(&served.model, &wanted(&request.outputs)?)?;
    let placed = rows(served.model.card(), tensors(request)?, terms.max_rows)?;
    let scored = score(served, &placed.rows, terms, |row, feature| placed.place(row, feature)).await?;
    let classes = served.model.card().classes.len();
    let count = i64::try_from(scored.rows().len()).unwrap_or(i64::MAX);
    let mut response = InferResponse {
        model_name: served.name.clone(),
        model_version: served.version.clone(),
        id: request.id.clone(),
        ..InferResponse::default()
    };
    if let Some((features, rows)) = unusual(&scored) {
        let parameter = |choice| Parameter { choice: Some(choice) };
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        response.parameters = [
            ("out_of_training_range".to_owned(), parameter(Choice::String(features))),
            ("out_of_training_range_rows".to_owned(), parameter(Choice::Int64(rows))),
        ]
        .into();
    }
    for (output, _) in chosen {
        response.outputs.push(message::Tensor {
            name: output.name().to_owned(),
            datatype: output.datatype().to_owned(),
            shape: vec![count, i64::try_from(output.width(classes)).unwrap_or(i64::MAX)],
            parameters: HashMap::new(),
            contents: (!raw).then(|| contents(output, &scored)),
        });
        if raw {
            let mut octets = Vec::new();
            output.write_binary(&scored, &mut octets);
            response.raw.push(octets);
        }
    }
    Ok(response)
}
