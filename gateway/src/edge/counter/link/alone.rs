//! A connection with one call on it at a time, moved by whoever makes the call.
//!
//! Source: RESP 2, <https://redis.io/docs/latest/develop/reference/protocol-spec/>. A call that is handed to a task of the
//! connection and its answer back cost a lone request more than all else that is done for it here; who asks one
//! question at a time needs no such task. The redis crate writes commands and reads what answers say; where an answer
//! ends is found here. A call that is given up takes its connection with it, because its answer may still come.

use std::io;
use std::sync::Mutex;

use redis::{Cmd, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::lock;

/// The longest answer.
const MOST_ANSWERED: usize = 16 << 20;
/// A buffer that is kept for the next call.
const KEPT: usize = 64 << 10;

/// What a connection reads from and writes to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The connection; nothing while a call is on it, and for ever where one was given up.
pub(super) struct Alone(Mutex<Option<Box<Line>>>);

struct Line {
    stream: Box<dyn Stream>,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl Alone {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(Line { stream: Box::new(stream), output: Vec::new(), input: Vec::new() }))))
    }

    /// Sends commands, and gives back the answer to the last.
    ///
    /// # Errors
    /// What Redis answered, or what became of the connection.
    pub(super) async fn call(&self, commands: &[&Cmd]) -> RedisResult<Value> {
        let line = lock(&self.0).take();
        let Some(mut line) = line else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "a call on it was given up").into());
        };
        let answer = line.call(commands).await?;
        *lock(&self.0) = Some(line);
        answer.extract_error()
    }
}

impl Line {
    async fn call(&mut self, commands: &[&Cmd]) -> RedisResult<Value> {
        self.output.clear();
        for command in commands {
            command.write_packed_command(&mut self.output);
        }
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        let mut answer = Value::Nil;
        for _ in commands {
            answer = self.answer().await?;
        }
        // Nobody asked for what comes now.
        if !self.input.is_empty() {
            return Err(broken("it answered what nobody asked").into());
        }
        self.output.shrink_to(KEPT);
        self.input.shrink_to(KEPT);
        Ok(answer)
    }

    async fn answer(&mut self) -> RedisResult<Value> {
        let length = loop {
            if let Some(length) = length(&self.input)? {
                break length;
            }
            if self.input.len() > MOST_ANSWERED {
                return Err(broken("it answers without an end").into());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up instead of an answer").into());
            }
        };
        let octets = self.input.get(..length).unwrap_or_default();
        let answer = match content(octets) {
            Some(content) => Value::BulkString(content.to_vec()),
            None => redis::parse_redis_value(octets)?,
        };
        self.input.drain(..length);
        Ok(answer)
    }
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The content of an answer that is whole and one text, as nearly all are.
fn content(octets: &[u8]) -> Option<&[u8]> {
    let head = memchr::memchr(b'\n', octets)?;
    octets.strip_prefix(b"$").filter(|rest| rest.first() != Some(&b'-'))?;
    octets.get(head + 1..octets.len() - 2)
}

/// How long the first answer is; `None` where its end has not come.
fn length(input: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0_usize;
    // Values whose end is still to be found: an array's are counted as they are named.
    let mut left = 1_u64;
    while left > 0 {
        let Some(rest) = input.get(at..) else { return Ok(None) };
        let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(None) };
        let line =
            rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or_else(|| broken("a bare line feed"))?;
        at += end + 1;
        left -= 1;
        match line.split_first() {
            Some((b'+' | b'-' | b':', _) | (b'$' | b'*', b"-1")) => {}
            Some((kind @ (b'$' | b'*'), digits)) => {
                let count = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
                let count = count.ok_or_else(|| broken("it names no length"))?;
                if count as usize > MOST_ANSWERED {
                    return Err(broken("it answers without an end"));
                }
                match kind {
                    b'*' => left += u64::from(count),
                    _ => at += count as usize + 2,
                }
            }
            _ => return Err(broken("it does not speak RESP 2")),
        }
    }
    Ok((at <= input.len()).then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const ANSWERS: [&[u8]; 9] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":42\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*0\r\n",
        b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+x\r\n",
    ];

    #[test]
    fn an_answer_ends_where_it_says() {
        for answer in ANSWERS {
            let followed = [answer, b"+more\r\n"].concat();
            assert_eq!(length(&followed).expect("RESP"), Some(answer.len()));
            for end in 0..answer.len() {
                assert_eq!(length(&answer[..end]).expect("the beginning of RESP"), None, "{answer:?} {end}");
            }
            let text = content(answer).map(|content| Value::BulkString(content.to_vec()));
            let read = redis::parse_redis_value(answer).expect("an answer");
            assert_eq!(text.is_some(), matches!(read, Value::BulkString(_)));
            assert!(text.is_none_or(|text| text == read));
        }
        for wrong in [&b"x\r\n"[..], b"\r\n", b"+a\n", b"$x\r\n", b"$-2\r\n", b"*4294967296\r\n", b"$99999999\r\n"] {
            assert!(length(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn calls_follow_each_other_and_one_that_is_given_up_ends_the_connection() {
        let (ours, mut theirs) = duplex(64);
        let connection = Alone::new(ours);
        let ping = redis::cmd("PING");
        let server = async {
            let mut heard = [0; 14];
            for answer in [&b"+PONG\r\n"[..], b"$4\r\nPONG\r\n", b"-ERR no\r\n"] {
                theirs.read_exact(&mut heard).await.expect("a call");
                theirs.write_all(answer).await.expect("somebody listens");
            }
        };
        let client = async {
            let first = connection.call(&[&ping]).await.expect("an answer");
            assert_eq!(first, Value::SimpleString("PONG".into()));
            let last = connection.call(&[&ping, &ping]).await.expect_err("the last answer is an error");
            assert!(!last.is_io_error());
        };
        tokio::join!(server, client);
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, connection.call(&[&ping])).await;
        assert!(given_up.is_err());
        assert!(connection.call(&[&ping]).await.expect_err("its answer may still come").is_io_error());
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_the_connection() {
        for answer in [&b""[..], b"+a", b"nonsense\r\n", b"+one\r\n+two\r\n"] {
            let (ours, mut theirs) = duplex(64);
            let connection = Alone::new(ours);
            let ping = redis::cmd("PING");
            let server = async move {
                theirs.write_all(answer).await.expect("somebody listens");
            };
            let commands = [&ping];
            let (called, ()) = tokio::join!(connection.call(&commands), server);
            assert!(called.is_err(), "{answer:?}");
            assert!(connection.call(&[&ping]).await.is_err(), "{answer:?}");
        }
    }
}
