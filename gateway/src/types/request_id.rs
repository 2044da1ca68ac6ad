//! Names for requests.

use std::cell::Cell;
use std::fmt;

use http::HeaderValue;

/// Names one request in the answer, in the log and to the worker: 32 hexadecimal digits, always made
/// by us, so that a client can neither forge nor collide with another's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The digits as a header value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        // Hexadecimal digits are always a legal value; the fallback is never taken.
        let mut value = HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static("-"));
        // No secret: it keeps HPACK's table free of what never comes again (RFC 7541 §6.2.3).
        value.set_sensitive(true);
        value
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes request ids: a random prefix from the caller's entropy, then a mixed counter.
///
/// Unique, not secret: an id authorises nothing.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    next: Cell<u64>,
}

impl RequestIds {
    /// A source of ids. `seed` must be random: it is what keeps two sources apart.
    #[must_use]
    pub fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self {
            prefix: (seed >> 64) as u64,
            #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
            next: Cell::new(seed as u64),
        }
    }

    /// The next id.
    #[must_use]
    pub fn next(&self) -> RequestId {
        let count = self.next.get().wrapping_add(1);
        self.next.set(count);
        // SplitMix64's finaliser is a bijection, so ids stay unique while neighbours look unrelated.
        let mut mixed = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let value = (u128::from(self.prefix) << 64 | u128::from(mixed)).to_be_bytes();
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(value) {
            if let [high, low] = pair {
                *high = hex(byte >> 4);
                *low = hex(byte & 0xf);
            }
        }
        RequestId(digits)
    }
}

const fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

#[cfg(test)]
mod tests {
    use super::RequestIds;
    use std::collections::HashSet;

    #[test]
    fn ids_are_hexadecimal_and_distinct() {
        let ids = RequestIds::new([7; 16]);
        let seen: HashSet<String> = (0..10_000).map(|_| ids.next().to_string()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
