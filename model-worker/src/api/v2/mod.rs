//! The Open Inference Protocol, version 2, over REST: metadata out of the artifact, and inference with JSON or octets.
//!
//! `GET /v2/models/M` has, beside the protocol's members, `card`: the model card, for whoever guards the model from
//! outside. Its form:
//!
//! ```json
//! {"name": "iris", "versions": ["1"], "platform": "modelgate_forest", "inputs": […], "outputs": […],
//!  "card": {
//!    "version": "1",
//!    "features": [{"name": "sepal_length", "type": "number", "unit": "cm",
//!                  "bounds": {"above": 0.0, "at_most": 30.0},
//!                  "training_range": {"minimum": 4.3, "maximum": 7.9},
//!                  "quantiles": {"p05": 4.6, "p25": 5.1, "p50": 5.8, "p75": 6.4, "p95": 7.2}}],
//!    "classes": ["setosa", "versicolor", "virginica"],
//!    "description": "…", "metrics": {…}, "data": {…}, "kind": "forest", "seed": 1, …}}
//! ```
//!
//! `features` are in the order of a stacked tensor's columns. `bounds` are hard: the worker refuses `value <= above` and
//! `value > at_most`; of a text (`"type": "text"`) they bound the length in octets. `training_range` and `quantiles` may
//! be absent; values outside the range are predicted and flagged. Golden rows are left out: they are rows of data.

pub mod answer;
pub mod binary;
pub mod metadata;
pub mod request;
pub mod tensor;

use self::answer::{choose, write};
use self::request::Request;
use self::tensor::rows;
use super::score::{Terms, score};
use crate::catalog::Served;
use crate::problem::Refusal;

/// Answers one inference request; `json` says how many octets of the body are JSON, where others follow.
///
/// # Errors
///
/// The place of what is wrong with the request.
pub async fn infer(
    served: &Served,
    body: &[u8],
    json: Option<usize>,
    terms: Terms,
) -> Result<(Vec<u8>, Option<usize>), Refusal> {
    let split = body.split_at_checked(json.unwrap_or(body.len()));
    let (head, tail) = split
        .ok_or_else(|| Refusal::Malformed("Inference-Header-Content-Length is larger than the body".to_owned()))?;
    let request = Request::parse(head)?;
    let outputs = choose(&served.model, &request.wanted()?)?;
    let id = request.id.clone();
    let placed = rows(served.model.card(), request.tensors(tail)?, terms.max_rows)?;
    let scored = score(served, &placed.rows, terms, |row, feature| placed.place(row, feature)).await?;
    Ok(write(&scored, id.as_deref(), &outputs))
}
