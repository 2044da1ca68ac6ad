//! Which models there are, and which one is meant by a row that names none.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::rows;
use crate::body::Json;
use crate::catalog::{Catalog, Served};
use crate::model::card::{Card, FeatureType};
use crate::problem::Refusal;

/// A model as it is listed, and with its card where one model was asked for.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    name: &'a str,
    version: &'a str,
    versions: Vec<&'a str>,
    description: &'a str,
    features: Vec<&'a str>,
    classes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<&'a Card>,
    #[serde(skip)]
    all: &'a Card,
}

impl Summary<'_> {
    /// The same with the whole card.
    pub(super) fn with_card(self) -> Self {
        Self { card: Some(self.all), ..self }
    }
}

/// One model, without its card.
pub(super) fn summary<'a>(catalog: &'a Catalog, served: &'a Served) -> Summary<'a> {
    let card = served.model.card();
    Summary {
        name: &served.name,
        version: &served.version,
        versions: catalog.versions(&served.name).collect(),
        description: &card.description,
        features: card.features.iter().map(|feature| feature.name.as_str()).collect(),
        classes: &card.classes,
        card: None,
        all: card,
    }
}

/// The model whose features are the members of the first row. A row that shares members with one model only is meant
/// for it, so that the answer can say which member is wrong.
pub(super) fn choose<'a>(catalog: &'a Catalog, json: &Json<'_>) -> Result<&'a Arc<Served>, Refusal> {
    let members: HashSet<&str> = match rows::first(json) {
        Some(Json::Object(members)) => members.iter().map(|(name, _)| name.as_ref()).collect(),
        _ => HashSet::new(),
    };
    // Values by place say less: the one model of numbers that takes so many.
    if let Some(Json::Array(items)) = rows::first(json) {
        let fits = |served: &&Arc<Served>| {
            let features = &served.model.card().features;
            features.len() == items.len() && features.iter().all(|feature| feature.kind == FeatureType::Number)
        };
        let fitting: Vec<_> = catalog.current().filter(fits).collect();
        if let [only] = fitting.as_slice() {
            return Ok(*only);
        }
    }
    let shared = |served: &&Arc<Served>| {
        served.model.card().features.iter().filter(|feature| members.contains(feature.name.as_str())).count()
    };
    let exact: Vec<_> = catalog
        .current()
        .filter(|served| served.model.card().features.len() == members.len() && shared(served) == members.len())
        .collect();
    let near: Vec<_> = catalog.current().filter(|served| shared(served) > 0).collect();
    match (exact.as_slice(), near.as_slice()) {
        ([only], _) | ([], [only]) => Ok(*only),
        _ => Err(Refusal::WhichModel(takes(catalog))),
    }
}

/// Which models take which members, in words.
fn takes(catalog: &Catalog) -> String {
    let models: Vec<String> = catalog
        .current()
        .map(|served| {
            let features = &served.model.card().features;
            let mut names: Vec<&str> = features.iter().take(10).map(|feature| feature.name.as_str()).collect();
            if features.len() > names.len() {
                names.push("and others");
            }
            format!("{} takes {}", served.name, names.join(", "))
        })
        .collect();
    format!("Send one row or an array of rows: {}. Or name the model: /models/{{name}}/predict.", models.join("; "))
}
