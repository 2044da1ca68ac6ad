//! Tensors as the Open Inference Protocol knows them, and how they become rows: one tensor that holds whole rows, or
//! one for each feature. Shared by REST and gRPC; every mistake is told with its place.

use std::borrow::Cow;

use super::super::rows::{beyond, check_text, fits};
use crate::model::Rows;
use crate::model::card::{Card, FeatureType};
use crate::problem::{MOST_MISTAKES, Refusal};

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    /// Whole numbers of so many bytes, with or without a sign.
    Int(u8, bool),
    /// Floating point numbers of so many bytes.
    Float(u8),
    /// True or false.
    Bool,
    /// Strings of octets.
    Bytes,
}

const NAMES: [(&str, Datatype); 13] = [
    ("FP64", Datatype::Float(8)),
    ("FP32", Datatype::Float(4)),
    ("FP16", Datatype::Float(2)),
    ("BYTES", Datatype::Bytes),
    ("INT64", Datatype::Int(8, true)),
    ("INT32", Datatype::Int(4, true)),
    ("INT16", Datatype::Int(2, true)),
    ("INT8", Datatype::Int(1, true)),
    ("UINT64", Datatype::Int(8, false)),
    ("UINT32", Datatype::Int(4, false)),
    ("UINT16", Datatype::Int(2, false)),
    ("UINT8", Datatype::Int(1, false)),
    ("BOOL", Datatype::Bool),
];

impl Datatype {
    /// The type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, datatype)| *datatype)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, datatype)| *datatype == self).map_or("", |(name, _)| *name)
    }

    /// Bytes of one element; `None` where each has its own length.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Int(size, _) | Self::Float(size) => Some(usize::from(size)),
            Self::Bool => Some(1),
            Self::Bytes => None,
        }
    }

    /// The number as an element of this type holds it; `None` when it cannot.
    #[expect(clippy::cast_possible_truncation, reason = "an FP32 tensor holds the nearest f32")]
    fn hold(self, number: f64) -> Option<f64> {
        match self {
            Self::Float(4) => Some(f64::from(number as f32)),
            Self::Float(2) => Some(f64::from(half_to_single(single_to_half(number as f32)))),
            Self::Float(_) => Some(number),
            Self::Int(size, signed) => {
                let bits = i32::from(size) * 8 - i32::from(signed);
                let (low, high) = (if signed { -(2_f64.powi(bits)) } else { 0.0 }, 2_f64.powi(bits));
                (number.fract() == 0.0 && number >= low && number < high).then_some(number)
            }
            Self::Bool | Self::Bytes => None,
        }
    }
}

/// IEEE 754 binary16, widened.
#[must_use]
pub fn half_to_single(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((half >> 10) & 0x1f), f32::from(half & 0x3ff));
    match exponent {
        0 => sign * fraction * 2_f32.powi(-24),
        0x1f if fraction > 0.0 => f32::NAN,
        0x1f => sign * f32::INFINITY,
        _ => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
    }
}

/// The nearest IEEE 754 binary16; of equals the even one.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers are brought into range first")]
pub fn single_to_half(number: f32) -> u16 {
    let sign = if number.is_sign_negative() { 0x8000 } else { 0 };
    let size = number.abs();
    if size.is_nan() {
        return 0x7e00;
    }
    if size >= 65_520.0 {
        return sign | 0x7c00;
    }
    let exponent = (size.max(2_f32.powi(-14)).log2().floor() as i32).clamp(-14, 15);
    // In steps of the exponent's last place: 1024 and more where the number is normal.
    let steps = (size * 2_f32.powi(10 - exponent)).round_ties_even() as u16;
    sign | (((exponent + 14) as u16) << 10).wrapping_add(steps)
}

/// A tensor's elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Data<'a> {
    /// Numbers of any type.
    Numbers(Vec<f64>),
    /// Octets that are UTF-8.
    Texts(Vec<Cow<'a, str>>),
    /// Truth values, which no model takes.
    Bools(usize),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
            Self::Bools(count) => *count,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Numbers(_) => "numbers",
            Self::Texts(_) => "strings",
            Self::Bools(_) => "booleans",
        }
    }
}

/// One input.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// Its place among the request's inputs.
    pub place: usize,
    /// Its name.
    pub name: Cow<'a, str>,
    /// Type of its elements.
    pub datatype: Datatype,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its elements.
    pub data: Data<'a>,
}

/// Rows, and where in the request each value was.
#[derive(Debug)]
pub struct Placed<'a> {
    /// The rows.
    pub rows: Rows<'a>,
    /// Place of each tensor, in the order of the features; one alone when it holds whole rows.
    places: Vec<usize>,
    width: usize,
}

impl Placed<'_> {
    /// The place of one value.
    #[must_use]
    pub fn place(&self, row: usize, feature: usize) -> String {
        match self.places.as_slice() {
            [only] => format!("/inputs/{only}/data/{}", row * self.width + feature),
            several => format!("/inputs/{}/data/{row}", several.get(feature).copied().unwrap_or_default()),
        }
    }
}

fn shape_text(shape: &[u64]) -> String {
    let shape: Vec<String> = shape.iter().take(8).map(ToString::to_string).collect();
    format!("[{}]", shape.join(","))
}

/// Where a member of the input at `place` is.
fn at(place: usize, member: &str) -> String {
    format!("/inputs/{place}/{member}")
}

impl Tensor<'_> {
    /// Where one of its members is.
    fn at(&self, member: &str) -> String {
        at(self.place, member)
    }

    /// The number of rows, if the tensor holds `width` values of each.
    fn count(&self, width: usize, max_rows: u32) -> Result<usize, Refusal> {
        let wide = u64::try_from(width).unwrap_or(u64::MAX);
        let rows = match self.shape.as_slice() {
            [rows, columns] if *columns == wide => *rows,
            [rows] if width == 1 => *rows,
            other => {
                let detail = format!("expected [rows,{width}], not {}", shape_text(other));
                return Err(Refusal::invalid(self.at("shape"), "wrong-shape", detail));
            }
        };
        if rows == 0 {
            return Err(Refusal::invalid(self.at("shape"), "no-rows", "expected at least one row"));
        }
        if rows > u64::from(max_rows) {
            return Err(Refusal::TooManyRows(max_rows));
        }
        let expected = usize::try_from(rows * wide).unwrap_or(usize::MAX);
        if self.data.len() != expected {
            let detail = format!("expected {expected} elements as the shape says, not {}", self.data.len());
            return Err(Refusal::invalid(self.at("data"), "wrong-count", detail));
        }
        usize::try_from(rows).map_err(|_| Refusal::TooManyRows(max_rows))
    }

    /// The numbers as the datatype holds them.
    fn numbers(self) -> Result<Vec<f64>, Refusal> {
        if matches!(self.datatype, Datatype::Bytes | Datatype::Bool) {
            let detail = format!("expected a type of numbers such as FP64, not {}", self.datatype.name());
            return Err(Refusal::invalid(self.at("datatype"), "wrong-type", detail));
        }
        let Data::Numbers(mut numbers) = self.data else {
            let detail = format!("expected numbers, not {}", self.data.kind());
            return Err(Refusal::invalid(at(self.place, "data"), "wrong-type", detail));
        };
        for (index, number) in numbers.iter_mut().enumerate() {
            let held = self.datatype.hold(*number).filter(|number| number.is_finite());
            *number = held.ok_or_else(|| {
                let detail = format!("expected a finite number that {} can hold", self.datatype.name());
                Refusal::invalid(at(self.place, &format!("data/{index}")), "wrong-number", detail)
            })?;
        }
        Ok(numbers)
    }
}

fn names(card: &Card) -> String {
    card.features.iter().take(10).map(|feature| feature.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// One tensor for each feature, in their order.
fn by_feature<'a>(card: &Card, tensors: Vec<Tensor<'a>>) -> Result<Vec<Tensor<'a>>, Refusal> {
    let mut found: Vec<Option<Tensor<'a>>> = card.features.iter().map(|_| None).collect();
    for tensor in tensors {
        let at = || tensor.at("name");
        let place = card.features.iter().position(|feature| feature.name == tensor.name);
        match place.and_then(|place| found.get_mut(place)) {
            None => {
                let detail = format!("the model takes one tensor of whole rows, or one for each of {}", names(card));
                return Err(Refusal::invalid(at(), "unknown-input", detail));
            }
            Some(Some(_)) => {
                return Err(Refusal::invalid(at(), "duplicate-input", "the input is there more than once"));
            }
            Some(slot) => *slot = Some(tensor),
        }
    }
    let missing = card.features.iter().zip(&found).find(|(_, found)| found.is_none());
    if let Some((feature, _)) = missing {
        return Err(Refusal::invalid("/inputs", "missing-input", format!("the model needs {}", feature.name)));
    }
    Ok(found.into_iter().flatten().collect())
}

/// Refuses values beyond the hard bounds.
fn check_bounds(card: &Card, placed: &Placed<'_>) -> Result<(), Refusal> {
    let mut mistakes = Vec::new();
    match &placed.rows {
        Rows::Numbers(values) => {
            for (index, (value, feature)) in values.iter().zip(card.features.iter().cycle()).enumerate() {
                if !fits(feature.bounds, *value) {
                    let width = placed.width.max(1);
                    mistakes.push(beyond(feature, placed.place(index / width, index % width)));
                    if mistakes.len() >= MOST_MISTAKES {
                        break;
                    }
                }
            }
        }
        Rows::Texts(texts) => {
            for (row, text) in texts.iter().enumerate() {
                if let Some(feature) = card.features.first()
                    && let Err(mistake) = check_text(feature, text, || placed.place(row, 0))
                    && mistakes.len() < MOST_MISTAKES
                {
                    mistakes.push(mistake);
                }
            }
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Refusal::OutOfBounds(mistakes)) }
}

/// Rows out of a request's tensors: a single one may hold whole rows under any name.
///
/// # Errors
///
/// Names the place of what does not fit the model.
pub fn rows<'a>(card: &Card, tensors: Vec<Tensor<'a>>, max_rows: u32) -> Result<Placed<'a>, Refusal> {
    let width = card.features.len();
    if tensors.is_empty() {
        return Err(Refusal::invalid("/inputs", "missing-input", "expected at least one input"));
    }
    let placed = match <[Tensor<'a>; 1]>::try_from(tensors) {
        Ok([tensor]) => {
            tensor.count(width, max_rows)?;
            let places = vec![tensor.place];
            let rows = match card.features.first().map(|feature| feature.kind) {
                Some(FeatureType::Text) => Rows::Texts(texts(tensor)?),
                _ => Rows::Numbers(tensor.numbers()?),
            };
            Placed { rows, places, width }
        }
        Err(tensors) => {
            let tensors = by_feature(card, tensors)?;
            let places = tensors.iter().map(|tensor| tensor.place).collect();
            let mut count = None;
            let mut columns = Vec::new();
            for tensor in tensors {
                let own = tensor.count(1, max_rows)?;
                if *count.get_or_insert(own) != own {
                    let detail = "expected as many rows as the first feature has";
                    return Err(Refusal::invalid(tensor.at("shape"), "wrong-shape", detail));
                }
                columns.push(tensor.numbers()?.into_iter());
            }
            let mut values = Vec::with_capacity(width * count.unwrap_or(0));
            for _ in 0..count.unwrap_or(0) {
                values.extend(columns.iter_mut().filter_map(Iterator::next));
            }
            Placed { rows: Rows::Numbers(values), places, width }
        }
    };
    check_bounds(card, &placed)?;
    Ok(placed)
}

fn texts(tensor: Tensor<'_>) -> Result<Vec<Cow<'_, str>>, Refusal> {
    match (tensor.datatype, tensor.data) {
        (Datatype::Bytes, Data::Texts(texts)) => Ok(texts),
        (Datatype::Bytes, other) => {
            let detail = format!("expected strings, not {}", other.kind());
            Err(Refusal::invalid(at(tensor.place, "data"), "wrong-type", detail))
        }
        (other, _) => {
            let detail = format!("expected BYTES, not {}", other.name());
            Err(Refusal::invalid(at(tensor.place, "datatype"), "wrong-type", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_survive_every_pattern() {
        for half in 0..=u16::MAX {
            let single = half_to_single(half);
            if single.is_nan() {
                assert!(half_to_single(single_to_half(single)).is_nan());
            } else {
                assert_eq!(single_to_half(single), half, "{half:#x} {single}");
            }
        }
        assert_eq!(single_to_half(65_519.0), 0x7bff);
        assert_eq!(single_to_half(1e9), 0x7c00);
        assert_eq!(single_to_half(1e-9), 0);
    }

    #[test]
    fn a_type_holds_what_its_name_says() {
        let hold = |name: &str, number: f64| Datatype::parse(name).and_then(|datatype| datatype.hold(number));
        assert_eq!(hold("INT8", 127.0), Some(127.0));
        assert_eq!(hold("INT8", 128.0), None);
        assert_eq!(hold("INT8", -128.0), Some(-128.0));
        assert_eq!(hold("UINT8", -1.0), None);
        assert_eq!(hold("UINT64", 1.8e19), Some(1.8e19));
        assert_eq!(hold("INT64", 1.8e19), None);
        assert_eq!(hold("INT32", 1.5), None);
        assert_eq!(hold("FP32", 0.1), Some(f64::from(0.1_f32)));
        assert_eq!(hold("FP32", 1e39), Some(f64::INFINITY));
        assert_eq!(Datatype::parse("fp32"), None);
        assert!(NAMES.iter().all(|(name, datatype)| datatype.name() == *name));
    }
}
