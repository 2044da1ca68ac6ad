//! Tensors as octets: the binary tensor extension of REST and `raw_input_contents` of gRPC. Little-endian, row by row;
//! of `BYTES` each element follows its length (u32).

use std::borrow::Cow;

use super::tensor::{Data, Datatype, half_to_single};
use crate::problem::Refusal;

fn element(datatype: Datatype, bytes: &[u8]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "features are f64: the nearest is taken")]
    fn wide(bytes: &[u8], signed: bool) -> f64 {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let bits = 64 - 8 * u32::try_from(bytes.len()).unwrap_or(8).min(8);
        let word = u64::from_le_bytes(word);
        if signed { ((word << bits).cast_signed() >> bits) as f64 } else { word as f64 }
    }
    match (datatype, bytes) {
        (Datatype::Float(8), bytes) => bytes.try_into().map_or(f64::NAN, f64::from_le_bytes),
        (Datatype::Float(4), bytes) => bytes.try_into().map_or(f64::NAN, |bytes| f64::from(f32::from_le_bytes(bytes))),
        (Datatype::Float(_), [low, high]) => f64::from(half_to_single(u16::from_le_bytes([*low, *high]))),
        (Datatype::Int(_, signed), bytes) => wide(bytes, signed),
        _ => f64::NAN,
    }
}

/// Elements out of the octets of the input at `place`.
///
/// # Errors
///
/// When the octets are not whole elements, or a text is not UTF-8.
pub fn decode(datatype: Datatype, bytes: &[u8], place: usize) -> Result<Data<'_>, Refusal> {
    let wrong = |code, detail: &str| Refusal::invalid(format!("/inputs/{place}/data"), code, detail);
    let Some(size) = datatype.size() else {
        let mut texts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let short = || wrong("wrong-count", "the octets end within an element");
            let (length, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let (text, after) = after.split_at_checked(length).ok_or_else(short)?;
            let text = str::from_utf8(text).map_err(|_| wrong("wrong-type", "expected UTF-8"))?;
            texts.push(Cow::Borrowed(text));
            rest = after;
        }
        return Ok(Data::Texts(texts));
    };
    if !bytes.len().is_multiple_of(size) {
        return Err(wrong("wrong-count", "the octets end within an element"));
    }
    if datatype == Datatype::Bool {
        return Ok(Data::Bools(bytes.len()));
    }
    Ok(Data::Numbers(bytes.chunks_exact(size).map(|bytes| element(datatype, bytes)).collect()))
}

/// Appends one element of `BYTES`.
pub fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size() {
        for (name, bytes, number) in [
            ("INT8", vec![0xff], -1.0),
            ("UINT8", vec![0xff], 255.0),
            ("INT16", vec![0, 0x80], -32_768.0),
            ("INT64", (-5_i64).to_le_bytes().to_vec(), -5.0),
            ("UINT64", (1_u64 << 63).to_le_bytes().to_vec(), 9_223_372_036_854_775_808.0),
            ("FP16", vec![0, 0x3c], 1.0),
            ("FP32", 0.5_f32.to_le_bytes().to_vec(), 0.5),
            ("FP64", 0.1_f64.to_le_bytes().to_vec(), 0.1),
        ] {
            let datatype = Datatype::parse(name).expect(name);
            assert_eq!(decode(datatype, &bytes, 0), Ok(Data::Numbers(vec![number])), "{name}");
            if bytes.len() > 1 {
                assert!(decode(datatype, &bytes[1..], 0).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn texts_have_lengths() {
        let mut bytes = Vec::new();
        push_text(&mut bytes, "é");
        push_text(&mut bytes, "");
        assert_eq!(decode(Datatype::Bytes, &bytes, 0), Ok(Data::Texts(vec!["é".into(), "".into()])));
        for cut in [1, 5, 7] {
            assert!(decode(Datatype::Bytes, &bytes[..cut], 0).is_err(), "{cut}");
        }
        assert!(decode(Datatype::Bytes, &[1, 0, 0, 0, 0xff], 0).is_err());
        assert!(decode(Datatype::Bytes, &[0xff; 8], 0).is_err());
    }
}
