//! An inference request as JSON. Elements go straight into a flat list, whether they come flat or nested; only a request
//! that is not well-formed is read a second time, to say where.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::tensor::{Data, Datatype, Tensor};
use crate::body::{self, Json};
use crate::problem::Refusal;

/// Deepest nesting of a tensor's data.
const DEEPEST: usize = 4;

/// A request as it came; members that are not known are ignored, because clients send their own.
#[derive(Debug, Deserialize)]
pub struct Request<'a> {
    /// Comes back with the answer.
    #[serde(borrow, default)]
    pub id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    /// Which outputs are asked for; all when none is named.
    #[serde(borrow, default)]
    pub outputs: Vec<Output<'a>>,
    #[serde(default)]
    parameters: RequestParameters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RequestParameters {
    binary_data_output: bool,
}

#[derive(Debug, Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<u64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: InputParameters<'a>,
    #[serde(borrow, default)]
    data: Option<Elements<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputParameters<'a> {
    binary_data_size: Option<usize>,
    #[serde(borrow)]
    shared_memory_region: Option<Cow<'a, str>>,
}

/// One output that is asked for.
#[derive(Debug, Deserialize)]
pub struct Output<'a> {
    /// Its name.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(default)]
    parameters: OutputParameters<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputParameters<'a> {
    binary_data: Option<bool>,
    classification: Option<u64>,
    #[serde(borrow)]
    shared_memory_region: Option<Cow<'a, str>>,
}

/// A tensor's elements, and the nesting that they came in.
#[derive(Debug, Default)]
struct Elements<'a> {
    numbers: Vec<f64>,
    texts: Vec<Cow<'a, str>>,
    bools: usize,
    /// Arrays' lengths, from the outermost inwards.
    lengths: Vec<usize>,
    /// First element of a kind that the first one is not, or that no tensor holds.
    foreign: Option<usize>,
    ragged: bool,
    /// How deep the elements are; all must be equally so.
    depth: Option<usize>,
}

impl Elements<'_> {
    /// An element at some depth: all are equally deep.
    fn at_depth(&mut self, depth: usize) {
        self.ragged |= *self.depth.get_or_insert(depth) != depth;
    }

    fn count(&self) -> usize {
        self.numbers.len() + self.texts.len() + self.bools
    }

    fn strange(&mut self) {
        let at = self.count();
        self.foreign.get_or_insert(at);
    }
}

/// Reads one item at some depth into the elements.
struct Item<'e, 'a> {
    elements: &'e mut Elements<'a>,
    depth: usize,
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Item<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Item<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, strings or arrays of them")
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.elements.at_depth(self.depth);
        self.elements.numbers.push(number);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "features are f64: the nearest is taken")]
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "features are f64: the nearest is taken")]
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        self.elements.at_depth(self.depth);
        self.elements.texts.push(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.elements.at_depth(self.depth);
        self.elements.texts.push(Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.elements.at_depth(self.depth);
        self.elements.bools += 1;
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.elements.strange();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.elements.strange();
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { elements, depth } = self;
        if depth >= DEEPEST {
            return Err(de::Error::custom("data is nested too deeply"));
        }
        // The outermost array of a well-sized request is the only one that is worth a guess.
        if depth == 0 {
            elements.numbers.reserve(items.size_hint().unwrap_or(0).min(4096));
        }
        let mut length = 0;
        while items.next_element_seed(Item { elements, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        match elements.lengths.get_mut(depth) {
            Some(known) if *known == usize::MAX => *known = length,
            Some(known) => elements.ragged |= *known != length,
            None => {
                elements.lengths.resize(depth, usize::MAX);
                elements.lengths.push(length);
            }
        }
        Ok(())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut elements = Self::default();
        Item { elements: &mut elements, depth: 0 }.deserialize(deserializer)?;
        Ok(elements)
    }
}

impl<'a> Elements<'a> {
    /// The elements, if they are all of one kind and nested as the shape says.
    fn into_data(self, place: usize, shape: &[u64]) -> Result<Data<'a>, Refusal> {
        let kinds = [!self.numbers.is_empty(), !self.texts.is_empty(), self.bools > 0];
        if let Some(index) = self.foreign {
            let detail = "expected a number or a string";
            return Err(Refusal::invalid(format!("/inputs/{place}/data/{index}"), "wrong-type", detail));
        }
        if kinds.into_iter().filter(|kind| *kind).count() > 1 {
            return Err(Refusal::invalid(
                format!("/inputs/{place}/data"),
                "wrong-type",
                "expected elements of one kind",
            ));
        }
        let nested = self.lengths.len() > 1;
        let as_shaped =
            self.lengths.iter().map(|length| u64::try_from(*length).ok()).eq(shape.iter().copied().map(Some));
        if self.depth.is_none_or(|depth| depth == 0 || depth != self.lengths.len())
            || self.ragged
            || (nested && !as_shaped)
        {
            let detail = "expected one flat array, or arrays nested as the shape says";
            return Err(Refusal::invalid(format!("/inputs/{place}/data"), "wrong-shape", detail));
        }
        Ok(match kinds {
            [_, true, _] => Data::Texts(self.texts),
            [_, _, true] => Data::Bools(self.bools),
            _ => Data::Numbers(self.numbers),
        })
    }
}

/// What a request asks for, beside its tensors.
#[derive(Debug)]
pub struct Wanted {
    /// Names of the outputs; empty for all.
    pub outputs: Vec<(String, bool)>,
    /// Whether outputs that are not named come as octets.
    pub binary: bool,
}

impl<'a> Request<'a> {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// The place of the first mistake.
    pub fn parse(json: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json)
            .map_err(|error| if error.is_data() { diagnose(json) } else { Refusal::Malformed(error.to_string()) })
    }

    /// What is asked for.
    ///
    /// # Errors
    ///
    /// When it is something that this worker does not do.
    pub fn wanted(&self) -> Result<Wanted, Refusal> {
        let mut outputs = Vec::new();
        let binary = self.parameters.binary_data_output;
        for (index, output) in self.outputs.iter().enumerate() {
            let parameters = &output.parameters;
            if parameters.classification.is_some_and(|classes| classes > 0) {
                let at = format!("/outputs/{index}/parameters/classification");
                return Err(Refusal::invalid(at, "not-offered", "ask for `class_name` or `probabilities` instead"));
            }
            if parameters.shared_memory_region.is_some() {
                let at = format!("/outputs/{index}/parameters/shared_memory_region");
                return Err(Refusal::invalid(at, "not-offered", "there is no shared memory"));
            }
            outputs.push((output.name.as_ref().to_owned(), parameters.binary_data.unwrap_or(binary)));
        }
        Ok(Wanted { outputs, binary })
    }

    /// The inputs; `tail` holds the octets of those that are binary, one after the other.
    ///
    /// # Errors
    ///
    /// The place of the first mistake.
    pub fn tensors(self, mut tail: &'a [u8]) -> Result<Vec<Tensor<'a>>, Refusal> {
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for (index, input) in self.inputs.into_iter().enumerate() {
            let wrong =
                |member: &str, code, detail: &str| Refusal::invalid(format!("/inputs/{index}/{member}"), code, detail);
            let datatype = Datatype::parse(&input.datatype)
                .ok_or_else(|| wrong("datatype", "wrong-type", "expected a type of the protocol, such as FP64"))?;
            if input.parameters.shared_memory_region.is_some() {
                return Err(wrong("parameters/shared_memory_region", "not-offered", "there is no shared memory"));
            }
            let data = match (input.data, input.parameters.binary_data_size) {
                (Some(elements), None) => elements.into_data(index, &input.shape)?,
                (None, Some(size)) => {
                    let (own, rest) = tail.split_at_checked(size).ok_or_else(|| {
                        let detail = "the body has fewer octets after its JSON";
                        wrong("parameters/binary_data_size", "wrong-count", detail)
                    })?;
                    tail = rest;
                    super::binary::decode(datatype, own, index)?
                }
                (Some(_), Some(_)) => return Err(wrong("data", "wrong-type", "expected data or octets, not both")),
                (None, None) => return Err(wrong("data", "missing-member", "the input has no data")),
            };
            tensors.push(Tensor { place: index, name: input.name, datatype, shape: input.shape, data });
        }
        if tail.is_empty() {
            Ok(tensors)
        } else {
            Err(Refusal::invalid("/inputs", "wrong-count", "the body has octets that belong to no input"))
        }
    }
}

fn member<'a, 'b>(members: &'a [(Cow<'b, str>, Json<'b>)], name: &str) -> Option<&'a Json<'b>> {
    members.iter().find(|(other, _)| other == name).map(|(_, value)| value)
}

/// Where a request that is JSON is not a request: found by a second, slower reading.
fn diagnose(json: &[u8]) -> Refusal {
    let request = match body::parse(json) {
        Ok(request) => request,
        Err(why) => return Refusal::Malformed(why),
    };
    let wrong = |at: String, expected: &str, found: Option<&Json<'_>>| {
        let detail = match found {
            Some(found) => format!("expected {expected}, not {}", found.kind()),
            None => format!("expected {expected}"),
        };
        Refusal::invalid(at, "wrong-type", detail)
    };
    let Json::Object(members) = &request else {
        return wrong(String::new(), "an object with `inputs`", Some(&request));
    };
    let inputs = match member(members, "inputs") {
        Some(Json::Array(inputs)) => inputs,
        other => return wrong("/inputs".to_owned(), "an array of inputs", other),
    };
    for (index, input) in inputs.iter().enumerate() {
        let at = |name: &str| format!("/inputs/{index}{name}");
        let Json::Object(members) = input else {
            return wrong(at(""), "an object", Some(input));
        };
        for name in ["name", "datatype"] {
            match member(members, name) {
                Some(Json::Text(_)) => {}
                other => return wrong(at(&format!("/{name}")), "a string", other),
            }
        }
        let sizes = match member(members, "shape") {
            Some(Json::Array(sizes)) => sizes,
            other => return wrong(at("/shape"), "an array of whole numbers", other),
        };
        let whole = |size: &Json<'_>| matches!(size, Json::Number(size) if size.fract() == 0.0 && *size >= 0.0);
        if let Some(place) = sizes.iter().position(|size| !whole(size)) {
            return wrong(at(&format!("/shape/{place}")), "a whole number", None);
        }
        match member(members, "data") {
            None | Some(Json::Array(_)) => {}
            other => return wrong(at("/data"), "an array", other),
        }
    }
    let detail = "expected a request of the Open Inference Protocol, each member once and of its type";
    Refusal::invalid("", "wrong-type", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        let parsed = Request::parse(json.as_bytes()).and_then(|request| request.tensors(&[]));
        let refusal = parsed.expect_err(json);
        assert!(!refusal.detail().contains("secret"), "{refusal:?}");
        refusal.detail()
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        for data in ["[1,2,3,4]", "[[1,2],[3,4.0]]"] {
            let json =
                format!(r#"{{"inputs":[{{"name":"x","shape":[2,2],"datatype":"FP64","data":{data}}}],"more":{{}}}}"#);
            let tensors =
                Request::parse(json.as_bytes()).and_then(|request| request.tensors(&[])).expect("well formed");
            assert_eq!(tensors[0].data, Data::Numbers(vec![1.0, 2.0, 3.0, 4.0]));
        }
    }

    #[test]
    fn each_mistake_is_told_with_its_place() {
        let with = |input: &str| format!(r#"{{"inputs":[{{{input}}}]}}"#);
        let data = |data: &str| with(&format!(r#""name":"x","shape":[2,2],"datatype":"FP64","data":{data}"#));
        for (json, place) in [
            ("[]".to_owned(), "expected an object with `inputs`, not an array"),
            ("{}".to_owned(), "/inputs: expected an array"),
            (r#"{"inputs":"secret"}"#.to_owned(), "/inputs: expected an array of inputs, not a string"),
            (r#"{"inputs":["secret"]}"#.to_owned(), "/inputs/0: expected an object, not a string"),
            (with(r#""name":5"#), "/inputs/0/name: expected a string, not a number"),
            (with(r#""name":"x""#), "/inputs/0/datatype: expected a string"),
            (with(r#""name":"x","datatype":"FP64","shape":[-1]"#), "/inputs/0/shape/0: expected a whole number"),
            (with(r#""name":"x","datatype":"FP64","shape":"secret""#), "/inputs/0/shape: expected an array"),
            (with(r#""name":"x","datatype":"secret","shape":[1],"data":[1]"#), "/inputs/0/datatype: expected a type"),
            (with(r#""name":"x","datatype":"FP64","shape":[1]"#), "/inputs/0/data: the input has no data"),
            (with(r#""name":"x","name":"x","datatype":"FP64","shape":[1],"data":[1]"#), "each member once"),
            (data(r#""secret""#), "/inputs/0/data: expected one flat array"),
            (data("[[1,2],[3]]"), "/inputs/0/data: expected one flat array"),
            (data("[[1,2,3,4]]"), "/inputs/0/data: expected one flat array"),
            (data("[[1,2],3,4]"), "/inputs/0/data: expected one flat array"),
            (data("[1,[2,3],4]"), "/inputs/0/data: expected one flat array"),
            (data(r#"[1,2,"secret",4]"#), "/inputs/0/data: expected elements of one kind"),
            (data("[1,2,null,4]"), "/inputs/0/data/2: expected a number or a string"),
            (data("[1,{},3,4]"), "/inputs/0/data/1: expected a number or a string"),
            (data("[[[[[1]]]]]"), "each member once and of its type"),
            (data("[1,2,NaN]"), "expected value"),
            (data("[1,2,1e999]"), "number out of range"),
            (with(r#""name":"x","datatype":"FP64","shape":[1],"parameters":{"binary_data_size":8}"#), "fewer octets"),
        ] {
            let detail = refusal(&json);
            assert!(detail.contains(place), "{json}: {detail}");
        }
    }
}
