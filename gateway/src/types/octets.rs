//! Octets, eight of them looked at in one step.
//!
//! Source: "Determine if a word has a byte less than n", <https://graphics.stanford.edu/~seander/bithacks.html>. A borrow
//! can mark octets behind the first that is looked for, and never one before it.

const ONES: u64 = 0x0101_0101_0101_0101;

const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & (ONES << 7)
}

const fn equal(word: u64, octet: u8) -> u64 {
    below(word ^ (ONES * octet as u64), 1)
}

/// Where the first marked octet is.
#[inline]
fn first(octets: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let find = |octets: &[u8; 8]| {
        let found = marks(u64::from_le_bytes(*octets));
        (found != 0).then(|| found.trailing_zeros() as usize / 8)
    };
    let (words, rest) = octets.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        if let Some(at) = find(word) {
            return Some(8 * index + at);
        }
    }
    if rest.is_empty() {
        return None;
    }
    // Octets that were looked at already are good; where there are too few, what fills the word is.
    if let Some(last) = octets.last_chunk::<8>() {
        return find(last).map(|at| octets.len() - 8 + at);
    }
    let mut word = [b' '; 8];
    word.iter_mut().zip(rest).for_each(|(place, octet)| *place = *octet);
    find(&word)
}

/// Where the first control character is (RFC 5234 §B.1).
#[must_use]
pub fn first_control(octets: &[u8]) -> Option<usize> {
    first(octets, |word| below(word, b' ') | equal(word, 0x7f))
}

/// Whether a text can stand in a JSON string as it is (RFC 8259 §7).
#[must_use]
pub fn is_plain_json(text: &str) -> bool {
    first(text.as_bytes(), |word| below(word, b' ') | equal(word, b'"') | equal(word, b'\\')).is_none()
}

#[cfg(test)]
mod tests {
    use super::{first_control, is_plain_json};

    #[test]
    fn every_octet_is_found_wherever_it_stands() {
        for octet in 0..=u8::MAX {
            for length in 0..20 {
                for at in 0..length {
                    for filling in [b'a', 0x80, 0xff, b' ', b'!', 0x7e] {
                        let mut octets = vec![filling; length];
                        octets[at] = octet;
                        assert_eq!(first_control(&octets), octet.is_ascii_control().then_some(at), "{octets:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_json_escapes_is_never_plain() {
        for octet in 0..0x80 {
            let c = char::from(octet);
            for text in
                [format!("{c}"), format!("abcdefg{c}"), format!("abcdefgh{c}"), format!("é{c}abcdefghijkl\u{10ffff}")]
            {
                let written = serde_json::to_string(&text).expect("text");
                assert_eq!(is_plain_json(&text), written == format!("\"{text}\""), "{text:?}");
            }
        }
    }
}
