//! The chunks of a worker's answer, taken apart.
//!
//! Source: RFC 9112 §7.1. Pure. Extensions and trailers are read within bounds and dropped: nothing here
//! knows what they would mean to a client.

use crate::wire::chunk_size;

/// The longest line of framing, and of trailers.
const MOST_LINE: usize = 256;
const MOST_TRAILER: usize = 4 << 10;
/// The most trailer fields.
const MOST_TRAILERS: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers(usize),
    End,
}

/// A chunked body at its beginning, or further on.
#[derive(Debug, Default)]
pub(super) struct Chunks(State);

/// What stands next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// So many octets of framing, to be dropped.
    Framing(usize),
    /// So many octets of data.
    Data(usize),
    /// Not enough to tell.
    More,
    /// Not chunks.
    Broken(&'static str),
}

impl Chunks {
    /// Whether the last chunk and the trailers were read.
    pub(super) fn is_end(&self) -> bool {
        self.0 == State::End
    }

    /// Reads on in `input`, whose first octets are then to be taken away as the answer says.
    pub(super) fn follow(&mut self, input: &[u8]) -> Followed {
        let (followed, next) = match self.0 {
            State::End => return Followed::Framing(0),
            State::Data(_) if input.is_empty() => return Followed::More,
            State::Data(left) => {
                let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                let left = left - count as u64;
                (Followed::Data(count), if left == 0 { State::DataEnd } else { State::Data(left) })
            }
            State::DataEnd => match input {
                [b'\r', b'\n', ..] => (Followed::Framing(2), State::Size),
                [] | [b'\r'] => return Followed::More,
                _ => return Followed::Broken("a chunk of its answer is longer than its size"),
            },
            State::Size | State::Trailers(_) => {
                let bound = if self.0 == State::Size { MOST_LINE } else { MOST_TRAILER };
                let Some(end) = memchr::memchr(b'\n', input.get(..bound).unwrap_or(input)) else {
                    let long = input.len() >= bound;
                    return if long { Followed::Broken("a line of its chunks is too long") } else { Followed::More };
                };
                let Some(line) = input.get(..end).and_then(|line| line.strip_suffix(b"\r")) else {
                    return Followed::Broken("a line of its chunks ends without a carriage return");
                };
                let next = match self.0 {
                    State::Trailers(_) if line.is_empty() => State::End,
                    State::Trailers(count) if count < MOST_TRAILERS => State::Trailers(count + 1),
                    State::Trailers(_) => return Followed::Broken("its answer has too many trailers"),
                    _ => match chunk_size(line) {
                        Ok(0) => State::Trailers(0),
                        Ok(size) => State::Data(size),
                        Err(_) => return Followed::Broken("a chunk's size is not a hexadecimal number"),
                    },
                };
                (Followed::Framing(end + 1), next)
            }
        };
        self.0 = next;
        followed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a stream that comes in pieces; gives back the data, what is left, and how it ended.
    fn read(stream: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, Result<bool, &'static str>) {
        let (mut chunks, mut data, mut input) = (Chunks::default(), Vec::new(), Vec::new());
        for octets in stream.chunks(piece) {
            input.extend_from_slice(octets);
            while !chunks.is_end() {
                match chunks.follow(&input) {
                    Followed::Framing(count) => drop(input.drain(..count)),
                    Followed::Data(count) => data.extend(input.drain(..count)),
                    Followed::More => break,
                    Followed::Broken(reason) => return (data, input, Err(reason)),
                }
            }
        }
        (data, input, Ok(chunks.is_end()))
    }

    #[test]
    fn chunks_are_read_alike_in_any_pieces() {
        for piece in 1..40 {
            let (data, rest, ended) = read(b"5;a=b\r\nhello\r\n00A\r\n, my world\r\n0\r\nX: y\r\n\r\nrest", piece);
            assert_eq!((&*data, &*rest, ended), (&b"hello, my world"[..], &b"rest"[..], Ok(true)), "{piece}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_broken() {
        for stream in [
            "zz\r\n",
            "5\nhello",
            "\r\n",
            "-1\r\n",
            "5\r\nhelloX\r\n",
            "5 \r\nhello",
            "0x5\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
        ] {
            for piece in [1, 3, 100] {
                assert!(read(stream.as_bytes(), piece).2.is_err(), "{stream:?}");
            }
        }
        assert!(read("1".repeat(300).as_bytes(), 300).2.is_err());
        assert!(read(format!("0\r\n{}", "a: b\r\n".repeat(40)).as_bytes(), 100).2.is_err());
        assert_eq!(read(b"5\r\nhel", 100).2, Ok(false));
    }
}
