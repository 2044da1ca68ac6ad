//! What is kept in the Redis that counts, beside windows: calls that requests or operators wait for, and streams that
//! each gateway reads on.

use std::cell::RefCell;
use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::time::timeout;

use super::SharedStore;
use super::link::{Link, describe, is_fatal};

/// How many entries of a stream one call reads.
pub(in crate::edge) const PAGE: usize = 1000;

/// One thread's way: a connection that is made when it is needed, and again when it broke.
#[derive(Clone, Debug)]
pub(in crate::edge) struct Caller {
    store: Arc<SharedStore>,
    link: RefCell<Option<Link>>,
}

impl Caller {
    /// One without a connection yet.
    pub(in crate::edge) fn new(store: Arc<SharedStore>) -> Self {
        Self { store, link: RefCell::default() }
    }

    /// Asks Redis, over a new connection where there is none or the held one is broken. Every command may be sent
    /// twice, so it must come to the same when it is.
    pub(in crate::edge) async fn call(&self, command: &Cmd) -> Result<Value, String> {
        let patience = self.store.patience();
        let late = |_| "no answer in time".to_owned();
        let held = self.link.borrow().clone();
        if let Some(link) = held {
            match timeout(patience, link.call(command)).await {
                Ok(Err(error)) if is_fatal(&error) => {}
                Ok(answer) => return answer.map_err(|error| describe(&error)),
                Err(elapsed) => {
                    self.link.take();
                    return Err(late(elapsed));
                }
            }
            self.link.take();
        }
        let link = self.store.link().await?.ok_or("there is no Redis")?;
        let answer = timeout(patience, link.call(command)).await.map_err(late)?.map_err(|error| describe(&error))?;
        *self.link.borrow_mut() = Some(link);
        Ok(answer)
    }
}

/// One entry of a stream: its place, and the values of its fields.
pub(in crate::edge) type Entry = (String, Vec<Vec<u8>>);

/// Reads a stream, over a connection of its own.
pub(in crate::edge) struct StreamReader {
    store: Arc<SharedStore>,
    key: String,
    link: Option<Link>,
}

impl StreamReader {
    /// Of the stream of that name.
    pub(in crate::edge) fn new(store: Arc<SharedStore>, name: &str) -> Self {
        Self { key: store.key(name), store, link: None }
    }

    /// Whether there is a connection, which leads to where the last one led.
    pub(in crate::edge) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Gives the connection up: a new one may lead to a server that knows less.
    pub(in crate::edge) fn disconnect(&mut self) {
        self.link = None;
    }

    /// The first entries from `begin` on, which is `-`, an entry's place, or that with `(` before it.
    ///
    /// # Errors
    /// Why they can't be had.
    pub(in crate::edge) async fn page(&mut self, begin: &str) -> Result<Vec<Entry>, String> {
        let link = match &self.link {
            Some(link) => link.clone(),
            None => self.link.insert(self.store.link().await?.ok_or("there is no Redis")?).clone(),
        };
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.key).arg(begin).arg("+").arg("COUNT").arg(PAGE);
        // Each page has its own time, so that a long list is read in the end.
        let answer = timeout(self.store.patience(), link.call(&command)).await;
        let answer = answer.map_err(|_| "no answer in time")?.map_err(|error| describe(&error))?;
        entries(&answer).ok_or_else(|| "the list has another form".to_owned())
    }
}

fn entries(answer: &Value) -> Option<Vec<Entry>> {
    let Value::Array(listed) = answer else { return None };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else { return None };
        let [place, Value::Array(fields)] = parts.as_slice() else { return None };
        let values = fields.iter().skip(1).step_by(2).map(octets).collect::<Option<_>>()?;
        Some((String::from_utf8(octets(place)?).ok()?, values))
    };
    listed.iter().map(entry).collect()
}

/// The octets of a text.
pub(in crate::edge) fn octets(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        Value::SimpleString(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_another_form_are_not_taken() {
        let bulk = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        let fields = Value::Array(vec![bulk(b"i"), bulk(b"x"), bulk(b"e"), bulk(b"12")]);
        let read = entries(&Value::Array(vec![Value::Array(vec![bulk(b"1-0"), fields])])).expect("its own form");
        assert_eq!(read, [("1-0".to_owned(), vec![b"x".to_vec(), b"12".to_vec()])]);
        for wrong in
            [bulk(b"x"), Value::Nil, Value::Array(vec![bulk(b"1-0")]), Value::Array(vec![bulk(b"1-0"), Value::Nil])]
        {
            assert!(entries(&Value::Array(vec![wrong])).is_none());
        }
        assert!(entries(&Value::Nil).is_none());
    }
}
