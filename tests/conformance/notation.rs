//! How the tables write octets.
//!
//! | written | means |
//! | --- | --- |
//! | `⏎` | CR LF |
//! | `␀` `␉` `␊` `␋` `␍` `␡` and their like | one control character |
//! | `␠` | a space, where it would be overlooked |
//! | `№` | the case's own mark, such as `c017`, by which the worker's recording is sorted |
//! | `«C3 A9»` | octets in hexadecimal |
//! | `«x×20000»` | the same text so many times |
//! | `«get»`, `«post»`, … | what [`ABBREVIATIONS`] says |
//! | `«pause»` | what follows goes into a piece of its own |
//! | `«await»` | a client stops until an answer's head, interim or not, has come |
//! | `«end»` | nothing more comes from the client: half-close, and no next request |
//! | `«early»` | a worker answers before it has read the request's body |
//! | `«later»` | a worker stops until the client has its answer |
//! | `«drip»` | a worker sends what follows again and again, a little apart |
//! | `«stall»` | a worker does nothing more |
//! | `«close»` | a worker closes the connection |
//! | `⏭` | between two messages, where a cell holds several |
//!
//! Everything else is itself, and ASCII.

use std::fmt::Write as _;

/// Beginnings that most rows share.
pub const ABBREVIATIONS: &[(&str, &str)] = &[
    ("get", "GET /№ HTTP/1.1⏎Host: a.test⏎"),
    ("post", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: text/plain⏎"),
    ("chunked", "POST /№ HTTP/1.1⏎Host: a.test⏎Content-Type: text/plain⏎Transfer-Encoding: chunked⏎⏎"),
    ("json", "POST /whole/№ HTTP/1.1⏎Host: a.test⏎Content-Type: application/json⏎"),
    ("ok", "HTTP/1.1 200 OK⏎Content-Type: text/plain⏎"),
];

/// What a connection does beside sending.
const WORDS: [&str; 8] = ["pause", "await", "end", "early", "later", "drip", "stall", "close"];

/// What a connection does, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends octets, in one go.
    Send(Vec<u8>),
    /// Does what the word says.
    Do(&'static str),
}

/// The steps of a cell, for the case with that mark.
///
/// # Panics
/// If the cell is written wrongly.
#[must_use]
pub fn steps(cell: &str, mark: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut octets = Vec::new();
    let mut rest = cell;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '⏎' => octets.extend_from_slice(b"\r\n"),
            '№' => octets.extend_from_slice(mark.as_bytes()),
            '␡' => octets.push(0x7f),
            '␀'..='␠' => octets.push(u8::try_from(u32::from(c) - 0x2400).expect("a control character")),
            '«' => {
                let (word, after) = rest.split_once('»').unwrap_or_else(|| panic!("« without » in {cell:?}"));
                rest = after;
                match WORDS.iter().find(|known| **known == word) {
                    Some(word) => {
                        steps.push(Step::Send(std::mem::take(&mut octets)));
                        steps.push(Step::Do(word));
                    }
                    None => octets.extend(expand(word, mark)),
                }
            }
            c if c.is_ascii_graphic() || c == ' ' => octets.push(u8::try_from(c).expect("ASCII")),
            c => panic!("{c:?} has no meaning in {cell:?}"),
        }
    }
    steps.push(Step::Send(octets));
    steps.retain(|step| !matches!(step, Step::Send(octets) if octets.is_empty()));
    steps
}

fn expand(word: &str, mark: &str) -> Vec<u8> {
    if let Some((_, meaning)) = ABBREVIATIONS.iter().find(|(name, _)| *name == word) {
        return octets(meaning, mark);
    }
    if let Some((text, count)) = word.rsplit_once('×') {
        return octets(text, mark).repeat(count.parse().expect("how many times"));
    }
    let digits = word.split(' ').map(|digits| u8::from_str_radix(digits, 16));
    digits.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("«{word}» has no meaning"))
}

/// The octets of a cell that only sends.
///
/// # Panics
/// If it does more.
#[must_use]
pub fn octets(cell: &str, mark: &str) -> Vec<u8> {
    match &mut steps(cell, mark)[..] {
        [] => Vec::new(),
        [Step::Send(octets)] => std::mem::take(octets),
        _ => panic!("{cell:?} does more than send"),
    }
}

/// Octets as a cell would write them.
#[must_use]
pub fn written(octets: &[u8], mark: &str) -> String {
    let mut text = String::new();
    let mut rest = octets;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\r\n") {
            text.push('⏎');
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix(mark.as_bytes()).filter(|_| !mark.is_empty()) {
            text.push('№');
            rest = after;
            continue;
        }
        rest = after;
        match byte {
            0..0x20 => text.push(char::from_u32(0x2400 + u32::from(byte)).unwrap_or('␀')),
            0x7f => text.push('␡'),
            0x80.. => {
                let _ = write!(text, "«{byte:02X}»");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Step, octets, steps, written};

    #[test]
    fn cells_become_octets_and_come_back() {
        assert_eq!(octets("GET /№␠␀␡⏎", "c001"), b"GET /c001 \0\x7f\r\n");
        assert_eq!(octets("«C3 A9»«ab×3»", ""), b"\xc3\xa9ababab");
        assert_eq!(
            steps("a«await»b«end»", ""),
            [Step::Send(b"a".to_vec()), Step::Do("await"), Step::Send(b"b".to_vec()), Step::Do("end")]
        );
        assert_eq!(written(b"/c001\r\n\0\xff", "c001"), "/№⏎␀«FF»");
    }
}
