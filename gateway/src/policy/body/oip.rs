//! Inference requests of the Open Inference Protocol, version 2: JSON, and tensors as octets behind it. The tensors of
//! answers are read here too, for they have the same form.
//!
//! Workers differ in what they make of a request that is not right: some answer 500, some predict from what they have. So
//! it is held to the protocol here: each input has a name, a type that there is, a shape, and exactly as many values
//! as the shape says, in JSON or as octets, and no octet belongs to nobody.

use http::{HeaderMap, HeaderName, header};
use serde_json::{Map, Number, Value};

use super::fault::{Fault, MOST_FAULTS};

/// How many octets of the body are JSON, where tensors follow it.
pub static JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The most inputs or outputs of one request.
const MOST_TENSORS: usize = 256;

/// A tensor of numbers, texts or truth values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Tensor {
    /// Its name.
    pub(in crate::policy) name: String,
    /// Its sides.
    pub(in crate::policy) shape: Vec<u64>,
    /// What each value is.
    pub(in crate::policy) datatype: Datatype,
    /// Where its octets begin behind the JSON, and how many they are; `None` where its values are in the JSON.
    pub(in crate::policy) octets: Option<(usize, usize)>,
}

/// The types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Datatype {
    /// true or false.
    Bool,
    /// Whole, not negative, of so many octets.
    Unsigned(usize),
    /// Whole, of so many octets.
    Signed(usize),
    /// With a fraction, of so many octets.
    Float(usize),
    /// Texts: each with its length before it.
    Bytes,
}

impl Datatype {
    const NAMES: [(&'static str, Self); 13] = [
        ("BOOL", Self::Bool),
        ("UINT8", Self::Unsigned(1)),
        ("UINT16", Self::Unsigned(2)),
        ("UINT32", Self::Unsigned(4)),
        ("UINT64", Self::Unsigned(8)),
        ("INT8", Self::Signed(1)),
        ("INT16", Self::Signed(2)),
        ("INT32", Self::Signed(4)),
        ("INT64", Self::Signed(8)),
        ("FP16", Self::Float(2)),
        ("FP32", Self::Float(4)),
        ("FP64", Self::Float(8)),
        ("BYTES", Self::Bytes),
    ];

    /// The octets of one value; `None` where they differ.
    pub(in crate::policy) fn width(self) -> Option<usize> {
        match self {
            Self::Bool => Some(1),
            Self::Unsigned(width) | Self::Signed(width) | Self::Float(width) => Some(width),
            Self::Bytes => None,
        }
    }

    /// The number that some octets are, as many as [`Datatype::width`] says.
    pub(in crate::policy) fn read(self, raw: &[u8]) -> f64 {
        let mut wide = [0; 8];
        for (place, octet) in wide.iter_mut().zip(raw) {
            *place = *octet;
        }
        let bits = u64::from_le_bytes(wide);
        let shift = 64 - 8 * u32::try_from(raw.len().clamp(1, 8)).unwrap_or(8);
        #[expect(clippy::cast_precision_loss, reason = "bounds are held with the precision that a model computes with")]
        match self {
            Self::Float(4) => f64::from(f32::from_bits(u32::try_from(bits).unwrap_or_default())),
            Self::Float(_) => f64::from_bits(bits),
            Self::Signed(_) => ((bits << shift).cast_signed() >> shift) as f64,
            Self::Unsigned(_) | Self::Bool | Self::Bytes => bits as f64,
        }
    }

    /// The smallest and the largest value of the type in a range, where one is.
    pub(super) fn inside(self, (low, high): (f64, f64)) -> Option<(f64, f64)> {
        #[expect(clippy::cast_possible_truncation, reason = "that is what the type holds")]
        let (low, high) = match self {
            Self::Float(4) => {
                let (single_low, single_high) = (low as f32, high as f32);
                let low = if f64::from(single_low) < low { single_low.next_up() } else { single_low };
                let high = if f64::from(single_high) > high { single_high.next_down() } else { single_high };
                (f64::from(low), f64::from(high))
            }
            Self::Float(_) => (low, high),
            Self::Signed(width) => {
                // -2^(bits - 1) up to the number below 2^(bits - 1), which a double may not hold itself.
                let end = 2_f64.powi(i32::try_from(8 * width).unwrap_or(64) - 1);
                (low.ceil().max(-end), high.floor().min((end - 1.0).min(end.next_down())))
            }
            Self::Unsigned(width) => {
                let end = 2_f64.powi(i32::try_from(8 * width).unwrap_or(64));
                (low.ceil().max(0.0), high.floor().min((end - 1.0).min(end.next_down())))
            }
            Self::Bool | Self::Bytes => return None,
        };
        (low.is_finite() && high.is_finite() && low <= high).then_some((low, high))
    }

    /// The number as JSON has it, where the type has whole numbers alone.
    pub(super) fn whole(self, value: f64) -> Option<Number> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is inside the type")]
        match self {
            Self::Unsigned(_) => Some((value as u64).into()),
            Self::Signed(_) => Some((value as i64).into()),
            Self::Bool | Self::Float(_) | Self::Bytes => None,
        }
    }

    /// Puts a number of the type in the place of some octets.
    pub(super) fn write(self, value: f64, raw: &mut [u8]) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is inside the type")]
        let bits = match self {
            Self::Float(4) => u64::from((value as f32).to_bits()),
            Self::Float(_) => value.to_bits(),
            Self::Signed(_) => (value as i64).cast_unsigned(),
            Self::Unsigned(_) | Self::Bool | Self::Bytes => value as u64,
        };
        for (place, octet) in raw.iter_mut().zip(bits.to_le_bytes()) {
            *place = octet;
        }
    }

    /// Whether a value in JSON is one of these.
    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool, Value::Bool(_)) | (Self::Float(_), Value::Number(_)) | (Self::Bytes, Value::String(_)) => true,
            (Self::Unsigned(width), Value::Number(number)) => {
                number.as_u64().is_some_and(|it| width == 8 || it < 1 << (8 * width))
            }
            (Self::Signed(width), Value::Number(number)) => number
                .as_i64()
                .is_some_and(|it| width == 8 || (-(1_i64 << (8 * width - 1))..1 << (8 * width - 1)).contains(&it)),
            _ => false,
        }
    }
}

/// How many octets of a body are JSON.
///
/// # Errors
/// A fault, where the header is none.
pub(in crate::policy) fn json_length(headers: &HeaderMap, whole: usize) -> Result<usize, Box<Fault>> {
    let mut values = headers.get_all(&JSON_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(whole) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let length = text.and_then(|text| text.parse().ok()).filter(|length| *length <= whole && values.next().is_none());
    length.ok_or_else(|| {
        let detail = "the header Inference-Header-Content-Length does not say how much of the body is JSON";
        Box::new(fault("", "binary_data_size", detail))
    })
}

/// Whether the media type goes with the protocol: JSON, none at all (as Triton's client sends it), or octets where the
/// header says how many of them are JSON.
pub(super) fn takes(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let first = types.next();
    let essence = first.and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next()).map(str::trim);
    let good = match (first, essence) {
        (None, _) => true,
        (Some(_), Some(essence)) => {
            essence.eq_ignore_ascii_case("application/json")
                || essence.eq_ignore_ascii_case("application/octet-stream") && headers.contains_key(&JSON_LENGTH)
        }
        (Some(_), None) => false,
    };
    good && types.next().is_none()
}

fn fault(pointer: &str, code: &'static str, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.into(), code, detail: detail.into(), limit: None, sent: None }
}

/// Reads the inputs of a request; `tail` is what follows the JSON.
///
/// # Errors
/// What is wrong, each with its place.
pub(super) fn read(body: &Value, tail: &[u8]) -> Result<Vec<Tensor>, Vec<Fault>> {
    let mut faults = Vec::new();
    let Some(request) = body.as_object() else {
        return Err(vec![fault("", "type", "is not an object with `inputs`")]);
    };
    if request.get("id").is_some_and(|id| !id.is_string()) {
        faults.push(fault("/id", "type", "is not a text"));
    }
    parameters(request.get("parameters"), "", &mut faults);
    let empty = Vec::new();
    if let Some(outputs) = request.get("outputs") {
        let outputs = outputs.as_array().unwrap_or(&empty);
        if outputs.len() > MOST_TENSORS
            || !outputs.iter().all(|output| output.get("name").is_some_and(Value::is_string))
        {
            faults.push(fault(
                "/outputs",
                "type",
                format!("is not a list of at most {MOST_TENSORS} outputs with names"),
            ));
        }
    }
    let tensors = tensors(request, "inputs", tail, &mut faults);
    if faults.is_empty() { Ok(tensors) } else { Err(faults) }
}

/// Reads the outputs of an answer; `tail` is what follows the JSON.
///
/// # Errors
/// What is wrong, each with its place. It shows nothing of the answer but numbers of values.
pub(in crate::policy) fn read_outputs(answer: &Map<String, Value>, tail: &[u8]) -> Result<Vec<Tensor>, Vec<Fault>> {
    let mut faults = Vec::new();
    let tensors = tensors(answer, "outputs", tail, &mut faults);
    if faults.is_empty() { Ok(tensors) } else { Err(faults) }
}

fn tensors(body: &Map<String, Value>, member: &str, tail: &[u8], faults: &mut Vec<Fault>) -> Vec<Tensor> {
    let empty = Vec::new();
    let listed = body.get(member).and_then(Value::as_array).unwrap_or(&empty);
    let (mut tensors, mut used) = (Vec::new(), 0);
    if listed.is_empty() || listed.len() > MOST_TENSORS {
        let detail = format!("is not a list of 1 to {MOST_TENSORS} tensors");
        faults.push(fault(&format!("/{member}"), "required", detail));
        return tensors;
    }
    for (index, input) in listed.iter().enumerate() {
        let place = format!("/{member}/{index}");
        match input.as_object().map(|input| tensor(input, &place, tail, &mut used, faults)) {
            Some(Some(tensor)) => tensors.push(tensor),
            Some(None) => {}
            None => faults.push(fault(&place, "type", "is not an object")),
        }
        if faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() && used != tail.len() {
        let none = member.trim_end_matches('s');
        let detail = format!("{} octets behind the JSON belong to no {none}", tail.len() - used);
        faults.push(fault("", "binary_data_size", detail));
    }
    tensors
}

fn parameters(parameters: Option<&Value>, place: &str, faults: &mut Vec<Fault>) {
    let Some(parameters) = parameters else { return };
    let plain = |value: &Value| !value.is_array() && !value.is_object();
    if !parameters.as_object().is_some_and(|map| map.values().all(plain)) {
        faults.push(fault(
            &format!("{place}/parameters"),
            "type",
            "is not an object of texts, numbers and truth values",
        ));
    }
}

fn tensor(
    input: &Map<String, Value>,
    place: &str,
    tail: &[u8],
    used: &mut usize,
    faults: &mut Vec<Fault>,
) -> Option<Tensor> {
    let before = faults.len();
    let mut wrong = |member: &str, code, detail: String| faults.push(fault(&format!("{place}{member}"), code, detail));
    let name = input.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    if name.is_none() {
        wrong("/name", "required", "is not a name".into());
    }
    let datatype = input.get("datatype").and_then(Value::as_str);
    let datatype =
        datatype.and_then(|name| Datatype::NAMES.iter().find(|(known, _)| *known == name)).map(|(_, it)| *it);
    if datatype.is_none() {
        wrong("/datatype", "enum", format!("is not one of {}", Datatype::NAMES.map(|(name, _)| name).join(", ")));
    }
    let shape = input.get("shape").and_then(Value::as_array).filter(|sides| sides.len() <= 16);
    let shape: Option<Vec<u64>> = shape.and_then(|sides| sides.iter().map(Value::as_u64).collect());
    let count = shape.as_ref().and_then(|shape| shape.iter().try_fold(1_u64, |count, side| count.checked_mul(*side)));
    if count.is_none() {
        wrong("/shape", "type", "is not a list of sides, none of them negative".into());
    }
    let size = input.get("parameters").and_then(|parameters| parameters.get("binary_data_size"));
    parameters(input.get("parameters"), place, faults);
    let mut wrong = |member: &str, code, detail: String| faults.push(fault(&format!("{place}{member}"), code, detail));
    let (datatype, count) = (datatype?, count?);
    let octets = match (input.get("data"), size) {
        (Some(data), None) => {
            match flat(data, datatype) {
                None => wrong("/data", "type", "is not a list of values of the datatype".into()),
                Some(found) if found != count => {
                    wrong("/data", "count", format!("has {found} values, and the shape says {count}"));
                }
                Some(_) => {}
            }
            None
        }
        (None, Some(size)) => {
            let rest = tail.get(*used..).unwrap_or_default();
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= rest.len());
            let Some(size) = size else {
                wrong("/parameters/binary_data_size", "count", "is more than follows the JSON, or no number".into());
                return None;
            };
            let raw = rest.get(..size).unwrap_or_default();
            let found = match datatype.width() {
                Some(width) => raw.len().is_multiple_of(width).then_some(raw.len() / width),
                None => texts(raw),
            };
            match found {
                Some(found) if found as u64 == count => {}
                Some(found) => wrong(
                    "/parameters/binary_data_size",
                    "count",
                    format!("holds {found} values, and the shape says {count}"),
                ),
                None => wrong("/parameters/binary_data_size", "count", "ends inside a value".into()),
            }
            let begins = *used;
            *used += size;
            Some((begins, size))
        }
        (None, None) => {
            wrong("/data", "required", "is missing".into());
            None
        }
        (Some(_), Some(_)) => {
            wrong("/data", "both", "stands beside `binary_data_size`".into());
            None
        }
    };
    (faults.len() == before).then(|| Tensor {
        name: name.unwrap_or_default().into(),
        shape: shape.unwrap_or_default(),
        datatype,
        octets,
    })
}

/// How many values a list holds, nested or not; `None` where one is of another type.
fn flat(data: &Value, datatype: Datatype) -> Option<u64> {
    fn count(value: &Value, datatype: Datatype, found: &mut u64) -> bool {
        if let Value::Array(values) = value {
            return values.iter().all(|value| count(value, datatype, found));
        }
        *found += 1;
        datatype.holds(value)
    }
    let mut found = 0;
    (data.is_array() && count(data, datatype, &mut found)).then_some(found)
}

/// How many texts some octets are, each with its length before it.
fn texts(mut raw: &[u8]) -> Option<usize> {
    let mut found = 0;
    while let Some((length, rest)) = raw.split_first_chunk() {
        raw = rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
        found += 1;
    }
    raw.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(body: &Value, tail: &[u8]) -> Vec<String> {
        match read(body, tail) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect(),
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_inside_is_inside_in_the_type(low in -1e4_f64..1e4, size in 0.0_f64..1e3, power in -12_i32..40, at in 0_usize..10) {
            let datatype = Datatype::NAMES[[1, 2, 3, 4, 5, 6, 7, 8, 10, 11][at]].1;
            let (low, high) = (low * 10_f64.powi(power), (low + size) * 10_f64.powi(power));
            let Some((least, most)) = datatype.inside((low, high)) else { return Ok(()) };
            for value in [least, most] {
                let mut raw = vec![0; datatype.width().unwrap_or(0)];
                datatype.write(value, &mut raw);
                let read = datatype.read(&raw);
                proptest::prop_assert!((low..=high).contains(&read), "{datatype:?}: {read} is not from {low} to {high}");
                if let Some(whole) = datatype.whole(value) {
                    proptest::prop_assert!(datatype.holds(&Value::Number(whole)), "{datatype:?} has no {value}");
                }
            }
        }
    }

    fn with(input: &Value) -> Value {
        json!({ "inputs": [input] })
    }

    #[test]
    fn good_requests_of_both_forms() {
        let nested = with(&json!({ "name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1, 2.5], [3, 4]] }));
        assert_eq!(wrong(&nested, b""), Vec::<String>::new());
        let raw = json!({ "id": "1", "parameters": { "binary_data_output": true }, "inputs": [
            { "name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } },
            { "name": "t", "datatype": "BYTES", "shape": [2], "parameters": { "binary_data_size": 10 } },
            { "name": "y", "datatype": "INT8", "shape": [1], "data": [-128] },
        ], "outputs": [{ "name": "label" }] });
        let tail = [&[0; 8][..], &1_u32.to_le_bytes(), b"a", &1_u32.to_le_bytes(), b"b"].concat();
        let tensors = read(&raw, &tail).expect("it is good");
        assert_eq!(tensors.iter().map(|tensor| tensor.octets).collect::<Vec<_>>(), [Some((0, 8)), Some((8, 10)), None]);
        assert_eq!(
            wrong(&with(&json!({ "name": "none", "datatype": "FP32", "shape": [0, 4], "data": [] })), b""),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_lies_is_told_with_its_place() {
        let good = json!({ "name": "x", "datatype": "INT32", "shape": [2], "data": [1, 2] });
        let changed = |member: &str, value: Value| {
            let mut input = good.clone();
            input[member] = value;
            with(&input)
        };
        for (body, expected) in [
            (json!([]), " type"),
            (json!({}), "/inputs required"),
            (json!({ "inputs": [] }), "/inputs required"),
            (json!({ "inputs": [3] }), "/inputs/0 type"),
            (changed("name", json!(1)), "/inputs/0/name required"),
            (changed("datatype", json!("int32")), "/inputs/0/datatype enum"),
            (changed("shape", json!([-2])), "/inputs/0/shape type"),
            (changed("shape", json!([u64::MAX, 3])), "/inputs/0/shape type"),
            (changed("shape", json!([3])), "/inputs/0/data count"),
            (changed("data", json!([1, 2.5])), "/inputs/0/data type"),
            (changed("data", json!([1, 1_u64 << 31])), "/inputs/0/data type"),
            (changed("data", json!([1, "2"])), "/inputs/0/data type"),
            (changed("data", json!({ "0": 1 })), "/inputs/0/data type"),
            (changed("data", json!([1, null])), "/inputs/0/data type"),
            (changed("parameters", json!({ "binary_data_size": 8 })), "/inputs/0/data both"),
            (changed("parameters", json!({ "x": [] })), "/inputs/0/parameters type"),
            (json!({ "inputs": [good], "outputs": [{}] }), "/outputs type"),
            (json!({ "inputs": [good], "id": 7 }), "/id type"),
        ] {
            assert_eq!(wrong(&body, b""), [expected], "{body}");
        }
        let raw = |size: u64, datatype: &str| {
            with(
                &json!({ "name": "x", "datatype": datatype, "shape": [2], "parameters": { "binary_data_size": size } }),
            )
        };
        let place = "/inputs/0/parameters/binary_data_size count";
        for (body, tail, expected) in [
            (raw(8, "FP32"), &[0_u8; 7][..], place),
            (raw(7, "FP32"), &[0; 7], place),
            (raw(12, "FP32"), &[0; 12], place),
            (raw(8, "FP32"), &[0; 9], " binary_data_size"),
            (raw(5, "BYTES"), &[1, 0, 0, 0, 9], place),
            (raw(6, "BYTES"), &[9, 0, 0, 0, 9, 9], place),
            (raw(u64::MAX, "FP32"), &[0; 8], place),
        ] {
            assert_eq!(wrong(&body, tail), [expected], "{body}");
        }
    }
}
