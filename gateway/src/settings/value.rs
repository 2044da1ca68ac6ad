//! The forms that a single value can have.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use figment::value::{Num, Value};

use crate::types::{Network, Sha256};

/// A type that one value of the configuration can be read as.
pub trait Setting: Sized {
    /// What to write, with an example: `a duration such as "30s"`.
    const SHAPE: &'static str;

    /// Reads a value.
    ///
    /// # Errors
    /// Why it can't be, as the end of a sentence that begins with the key.
    fn read(value: &Value) -> Result<Self, String>;
}

/// A choice between fixed words.
pub trait Named: Copy + 'static {
    /// What to write: ``"deny", "allow" or "local"``.
    const SHAPE: &'static str;
    /// Each word and what it means.
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Named> Setting for T {
    const SHAPE: &'static str = <T as Named>::SHAPE;

    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        let found = T::NAMES.iter().find(|(name, _)| *name == word);
        found.map(|(_, choice)| *choice).ok_or_else(|| format!("is {word:?}, which is not one of its choices"))
    }
}

/// What a value is, for a message. Never the value itself: it may be a secret in the wrong place.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "a string",
        Value::Bool(..) => "a boolean",
        Value::Num(..) => "a number",
        Value::Empty(..) => "empty",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("is {}, not a string", kind(value)))
}

fn integer(value: &Value) -> Result<u64, String> {
    match value {
        Value::Num(_, Num::F32(_) | Num::F64(_)) => Err("is a fraction".into()),
        Value::Num(_, number) => number
            .to_u128()
            .or_else(|| number.to_i128().and_then(|n| u128::try_from(n).ok()))
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| "is negative or too large".into()),
        _ => Err(format!("is {}, not a number", kind(value))),
    }
}

/// Splits `30s` into 30 and `s`.
fn quantity(word: &str) -> Option<(u64, &str)> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

impl Setting for String {
    const SHAPE: &'static str = "a string";
    fn read(value: &Value) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl Setting for IpAddr {
    const SHAPE: &'static str = "an address such as \"192.0.2.1\"";
    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        word.parse().map_err(|_| format!("is {word:?}, which is no address"))
    }
}

impl Setting for bool {
    const SHAPE: &'static str = "true or false";
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(_, value) => Ok(*value),
            _ => Err(format!("is {}, not true or false", kind(value))),
        }
    }
}

impl Setting for u64 {
    const SHAPE: &'static str = "a whole number";
    fn read(value: &Value) -> Result<Self, String> {
        integer(value)
    }
}

impl Setting for u32 {
    const SHAPE: &'static str = "a whole number";
    fn read(value: &Value) -> Result<Self, String> {
        integer(value)?.try_into().map_err(|_| "is too large".into())
    }
}

impl Setting for usize {
    const SHAPE: &'static str = "a whole number";
    fn read(value: &Value) -> Result<Self, String> {
        integer(value)?.try_into().map_err(|_| "is too large".into())
    }
}

impl Setting for Duration {
    const SHAPE: &'static str = "a duration with its unit, such as \"500ms\", \"30s\", \"5m\", \"1h\" or \"31d\"";
    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        let wrong = || format!("is {word:?}, which is not a duration");
        let (number, unit) = quantity(word).ok_or_else(wrong)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        match number.checked_mul(factor) {
            Some(0) => Err("is zero".into()),
            Some(millis) if millis <= 366 * 86_400_000 => Ok(Duration::from_millis(millis)),
            _ => Err(format!("is {word:?}, which is longer than a year")),
        }
    }
}

/// A number of bytes, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub usize);

impl Setting for ByteSize {
    const SHAPE: &'static str = "a size with its unit, such as \"512B\", \"64KiB\" or \"1MiB\"";
    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        let wrong = || format!("is {word:?}, which is not a size");
        let (number, unit) = quantity(word).ok_or_else(wrong)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(factor).filter(|&bytes| bytes <= 64 << 30);
        bytes.and_then(|bytes| bytes.try_into().ok()).map(ByteSize).ok_or_else(|| "is too large".into())
    }
}

impl Setting for SocketAddr {
    const SHAPE: &'static str = "an address and port, such as \"127.0.0.1:8443\" or \"[::]:8443\"";
    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        word.parse().map_err(|_| format!("is {word:?}, which is not an address and port"))
    }
}

impl Setting for Network {
    const SHAPE: &'static str = "a network such as \"10.0.0.0/8\" or one address";
    fn read(value: &Value) -> Result<Self, String> {
        let word = text(value)?;
        Network::parse(word).ok_or_else(|| format!("is {word:?}, which is not a network"))
    }
}

impl Setting for Sha256 {
    const SHAPE: &'static str = "\"sha256:\" and 64 lower-case hexadecimal digits, as `gateway key new` prints it";
    fn read(value: &Value) -> Result<Self, String> {
        // Not shown: people paste the key itself here by mistake.
        Sha256::parse(text(value)?).ok_or_else(|| "is not a SHA-256 digest".into())
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteSize, Setting};
    use std::time::Duration;

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("31d", 2_678_400_000)] {
            assert_eq!(Duration::read(&text.into()), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "30", "s", "0s", "-1s", "1.5s", "400d", "99999999999999999999s", "1 week"] {
            assert!(Duration::read(&wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20)] {
            assert_eq!(ByteSize::read(&text.into()), Ok(ByteSize(bytes)), "{text}");
        }
        for wrong in ["", "64", "64KB", "64kib", "-1B", "99999999999GiB"] {
            assert!(ByteSize::read(&wrong.into()).is_err(), "{wrong}");
        }
    }
}
