//! What can be asked about the server and its models.

use serde_json::{Value, json};

use super::answer::Output;
use crate::catalog::{Catalog, Served};
use crate::model::Model;
use crate::model::card::FeatureType;

/// Name of the server in its metadata.
pub const SERVER: &str = "modelgate-worker";
/// What it offers beyond the protocol's core.
pub const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"];

/// One tensor of a model's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Its name.
    pub name: &'static str,
    /// Type of its elements.
    pub datatype: &'static str,
    /// Its dimensions; -1 for any number of rows.
    pub shape: [i64; 2],
}

impl Signature {
    fn json(&self) -> Value {
        json!({"name": self.name, "datatype": self.datatype, "shape": self.shape})
    }
}

/// Which engine answers.
#[must_use]
pub fn platform(model: &Model) -> &'static str {
    match model {
        Model::Forest(_) => "modelgate_forest",
        Model::Sentiment(_) => "modelgate_sentiment",
    }
}

/// The input: one tensor of whole rows.
#[must_use]
pub fn input(model: &Model) -> Signature {
    let features = &model.card().features;
    let columns = i64::try_from(features.len()).unwrap_or(i64::MAX);
    match features.first().map(|feature| feature.kind) {
        Some(FeatureType::Text) => Signature { name: "text", datatype: "BYTES", shape: [-1, 1] },
        _ => Signature { name: "features", datatype: "FP64", shape: [-1, columns] },
    }
}

/// The outputs.
pub fn outputs(model: &Model) -> impl Iterator<Item = Signature> {
    let classes = model.card().classes.len();
    Output::of(model).iter().map(move |output| Signature {
        name: output.name(),
        datatype: output.datatype(),
        shape: [-1, i64::try_from(output.width(classes)).unwrap_or(i64::MAX)],
    })
}

/// `GET /v2`
#[must_use]
pub fn server() -> Value {
    json!({"name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS})
}

/// `GET /v2/models/M`
#[must_use]
pub fn model(catalog: &Catalog, served: &Served) -> Value {
    let model = &served.model;
    let mut card = serde_json::to_value(model.card()).unwrap_or_default();
    if let Some(members) = card.as_object_mut() {
        members.remove("golden");
        members.insert("version".to_owned(), json!(served.version));
    }
    json!({
        "name": served.name,
        "versions": catalog.versions(&served.name).collect::<Vec<_>>(),
        "platform": platform(model),
        "inputs": [input(model).json()],
        "outputs": outputs(model).map(|output| output.json()).collect::<Vec<_>>(),
        "card": card,
    })
}

/// `POST /v2/repository/index`: what is served, and what of the directory is not and why.
#[must_use]
pub fn index(catalog: &Catalog) -> Value {
    let ready = catalog
        .all()
        .map(|served| json!({"name": served.name, "version": served.version, "state": "READY", "reason": ""}));
    let refused = catalog.refused().iter().map(|refused| {
        json!({"name": refused.name, "version": refused.version, "state": "UNAVAILABLE", "reason": refused.why})
    });
    Value::Array(ready.chain(refused).collect())
}

/// `GET /v2/models/M/config`, in the words of the model configuration extension.
#[must_use]
pub fn config(served: &Served) -> Value {
    let model = &served.model;
    let tensor = |signature: &Signature| {
        let datatype = if signature.datatype == "BYTES" { "STRING" } else { signature.datatype };
        json!({"name": signature.name, "data_type": format!("TYPE_{datatype}"), "dims": signature.shape})
    };
    json!({
        "name": served.name,
        "platform": platform(model),
        "max_batch_size": 0,
        "input": [tensor(&input(model))],
        "output": outputs(model).map(|output| tensor(&output)).collect::<Vec<_>>(),
    })
}

/// `GET /v2/models/M/stats`, in the words of the statistics extension.
#[must_use]
pub fn stats(served: &Served) -> Value {
    let (requests, rows, nanoseconds) = served.counts.totals();
    let took = json!({"count": requests, "ns": nanoseconds});
    json!({"model_stats": [{
        "name": served.name,
        "version": served.version,
        "inference_count": rows,
        "execution_count": requests,
        "inference_stats": {"success": took, "compute_infer": took},
    }]})
}
