//! How large a message becomes once it is decoded: an empty tensor is two octets on the wire, and hundreds in memory. Looks
//! at lengths alone, before anything is decoded. What is no message at all is left to the decoder.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::problem::Refusal;

/// The most tensors, outputs, parameters, sizes and raw contents of a message, taken together.
const MOST_FIELDS: usize = 16 * 1024;

/// What a message may still hold.
struct Room {
    fields: usize,
    elements: usize,
}

/// Why there is none left.
enum Full {
    Fields,
    Elements,
}

/// One field: its tag, and its octets where it has a length.
fn next<'a>(message: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let (tag, kind) = decode_key(message).ok()?;
    if kind == WireType::LengthDelimited {
        let length = usize::try_from(decode_varint(message).ok()?).ok()?;
        let (inside, rest) = message.split_at_checked(length)?;
        *message = rest;
        return Some((tag, Some(inside)));
    }
    skip_field(kind, tag, message, DecodeContext::default()).ok()?;
    Some((tag, None))
}

fn each<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut(u32, Option<&'a [u8]>) -> Result<(), Full>,
) -> Result<(), Full> {
    while !message.is_empty()
        && let Some((tag, inside)) = next(&mut message)
    {
        take(tag, inside)?;
    }
    Ok(())
}

impl Room {
    fn field(&mut self, count: usize) -> Result<(), Full> {
        self.fields = self.fields.checked_sub(count).ok_or(Full::Fields)?;
        Ok(())
    }

    /// `ModelInferRequest`
    fn request(&mut self, message: &[u8]) -> Result<(), Full> {
        each(message, |tag, inside| {
            self.field(1)?;
            match (tag, inside) {
                (5, Some(tensor)) => self.tensor(tensor),
                (6, Some(output)) => each(output, |_, _| self.field(1)),
                _ => Ok(()),
            }
        })
    }

    /// `InferInputTensor`
    fn tensor(&mut self, message: &[u8]) -> Result<(), Full> {
        each(message, |tag, inside| match (tag, inside) {
            // A size takes an octet at least.
            (3, Some(shape)) => self.field(shape.len()),
            (5, Some(contents)) => self.contents(contents),
            _ => self.field(1),
        })
    }

    /// `InferTensorContents`
    fn contents(&mut self, message: &[u8]) -> Result<(), Full> {
        each(message, |tag, inside| {
            let count = match (tag, inside) {
                // The last octet of each number has no high bit.
                (1..=5, Some(packed)) => packed.iter().filter(|octet| **octet < 0x80).count(),
                (6, Some(packed)) => packed.len() / 4,
                (7, Some(packed)) => packed.len() / 8,
                _ => 1,
            };
            self.elements = self.elements.checked_sub(count).ok_or(Full::Elements)?;
            Ok(())
        })
    }
}

/// Checks a `ModelInferRequest` that is to hold `rows` rows of `width` features at most.
///
/// # Errors
///
/// It holds more.
pub fn check(message: &[u8], rows: u32, width: usize) -> Result<(), Refusal> {
    let elements = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(width);
    Room { fields: MOST_FIELDS, elements }.request(message).map_err(|full| match full {
        Full::Fields => {
            Refusal::Malformed("the message has more tensors and parameters than any model takes".to_owned())
        }
        Full::Elements => Refusal::TooManyRows(rows),
    })
}
