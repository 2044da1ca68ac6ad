//! Records: one for each request, one for each refusal, one for each change of state.
//!
//! Written in batches by a thread of its own, so that a slow disk or terminal never holds a request. The
//! way to it is bounded: what does not fit is dropped and counted, never waited for. JSON for machines,
//! one readable line for people. Never sees a header, a body or a query, so no secret can pass through.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::settings::{Named, Section};
use crate::types::RequestId;
use crate::types::octets::is_plain_json;

/// Batches that may wait for the writer.
const MOST_WAITING: usize = 64;
/// A batch that is sent at once, in bytes: with one more record, it still fits into 128 KiB. To wake the writer costs as much
/// as the records of several requests.
const FULL_BATCH: usize = 126 << 10;
/// Full batches that were written and whose memory is used again. Blocks of this size that one thread takes and another
/// gives back would pile up in the allocator.
const MOST_SPARE: usize = 4;
/// How long the end waits for a sink that takes nothing.
const LONGEST_FINISH: Duration = Duration::from_secs(2);
/// How long a record may wait for others.
const LONGEST_WAIT: Duration = Duration::from_millis(10);
/// The longest path that is written, in bytes.
const MOST_PATH: usize = 256;
/// The longest name of a model that is written, in octets.
const MOST_MODEL: usize = 128;

/// A member's name in JSON, as it stands before its value.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object on a line.
    Json,
    /// One line for people; coloured or not.
    Human {
        /// Whether colours are used.
        colour: bool,
    },
}

#[derive(Clone, Copy)]
enum Choice {
    Auto,
    Json,
    Human,
}

impl Named for Choice {
    const SHAPE: &'static str = "\"auto\", \"json\" or \"human\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("json", Self::Json), ("human", Self::Human)];
}

impl Format {
    /// Reads `[log]`: `format = "auto"` is for people on a terminal, and JSON elsewhere.
    #[must_use]
    pub fn compile(section: &Section<'_>, terminal: bool) -> Self {
        match (section.or("format", Choice::Auto), terminal) {
            (Choice::Json, _) | (Choice::Auto, false) => Self::Json,
            (Choice::Human, colour) | (Choice::Auto, colour @ true) => Self::Human { colour },
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
pub struct LogWriter {
    thread: Option<JoinHandle<()>>,
    log: Log,
}

/// A handle to the writer, one for each thread or task that records.
#[derive(Clone, Debug)]
pub struct Log {
    format: Format,
    sender: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    spare: Arc<Spare>,
}

/// Full batches that were written, empty again.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, mut batch: Vec<u8>) {
        if batch.capacity() < FULL_BATCH {
            return;
        }
        batch.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(batch);
        }
    }
}

impl LogWriter {
    /// Starts writing to `sink`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(format: Format, sink: impl io::Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MOST_WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let spare = Arc::<Spare>::default();
        let (count, written) = (Arc::clone(&dropped), Arc::clone(&spare));
        let write = move || write_all(&receiver, sink, &count, &written);
        let thread = std::thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(Self { thread: Some(thread), log: Log { format, sender, dropped, spare } })
    }

    /// A handle to it.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Writes what is waiting and ends; gives up on a sink that takes nothing. An empty batch is the sign to
    /// stop.
    pub fn finish(mut self) {
        let deadline = Instant::now() + LONGEST_FINISH;
        let mut stop = Some(Vec::new());
        while let Some(thread) = self.thread.take_if(|thread| !thread.is_finished()) {
            if let Some(batch) = stop.take()
                && let Err(TrySendError::Full(batch)) = self.log.sender.try_send(batch)
            {
                stop = Some(batch);
            }
            if Instant::now() >= deadline {
                return;
            }
            self.thread = Some(thread);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_all(receiver: &Receiver<Vec<u8>>, mut sink: impl io::Write, dropped: &AtomicU64, spare: &Spare) {
    let mut torn = false;
    while let Ok(batch) = receiver.recv() {
        if batch.is_empty() {
            break;
        }
        // What was begun in vain must not be the beginning of the next record.
        let written = if torn { sink.write_all(b"\n") } else { Ok(()) };
        let written = written.and_then(|()| sink.write_all(&batch)).and_then(|()| sink.flush());
        torn = written.is_err();
        if torn {
            // A sink that fails (a full disk, a closed pipe) must not stop the gateway; the batch is lost.
            let records = batch.split_inclusive(|octet| *octet == b'\n').count();
            dropped.fetch_add(u64::try_from(records).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        spare.put(batch);
    }
}

impl Log {
    fn send(&self, batch: Vec<u8>, records: u64) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(batch) {
            self.dropped.fetch_add(records, Ordering::Relaxed);
        }
    }

    /// Records that were lost because the writer could not follow, or its sink took nothing.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Records a change of state: `name` is a fixed word, `fields` are what it is about.
    pub fn event(&self, name: &str, fields: &[(&str, &str)]) {
        self.note("event", name, fields);
    }

    /// The same for what somebody outside does to us and no request says.
    pub fn security(&self, name: &str, fields: &[(&str, &str)]) {
        self.note("security", name, fields);
    }

    fn note(&self, kind: &str, name: &str, fields: &[(&str, &str)]) {
        let mut line = Line::new(self.format);
        let now = SystemTime::now();
        match self.format {
            Format::Json => {
                line.begin(kind, now);
                line.text(key!("event"), name);
                for (key, value) in fields {
                    line.field(key, value);
                }
                line.end();
            }
            Format::Human { colour } => {
                let _ = write!(line.out, "{} {}", clock(now), paint(colour, "1", name));
                for (key, value) in fields {
                    let _ = write!(line.out, " {}={}", paint(colour, "2", key), Escaped(value));
                }
                line.out.push('\n');
            }
        }
        self.send(line.out.into_bytes(), 1);
    }
}

/// A thread's own batch. Sent when it is full, when its oldest record has waited long enough, and when the
/// last of its owners goes.
#[derive(Clone, Debug)]
pub struct BatchLog(Rc<Batch>);

#[derive(Debug)]
struct Batch {
    log: Log,
    lines: RefCell<Line>,
    records: Cell<u64>,
    begun: Notify,
}

impl BatchLog {
    /// A batch of one thread.
    #[must_use]
    pub fn new(log: Log) -> Self {
        let lines = RefCell::new(Line::new(log.format));
        Self(Rc::new(Batch { log, lines, records: Cell::default(), begun: Notify::new() }))
    }

    /// Adds a request's records.
    pub fn request(&self, record: &Record<'_>) {
        let batch = &*self.0;
        let mut lines = batch.lines.borrow_mut();
        if lines.out.is_empty() {
            batch.begun.notify_one();
        }
        record.write(&mut lines);
        batch.records.set(batch.records.get() + 1);
        if lines.out.len() >= FULL_BATCH {
            drop(lines);
            batch.flush();
        }
    }

    /// Sends batches whose oldest record has waited long enough, for ever.
    pub async fn keep_flushing(self) {
        loop {
            self.0.begun.notified().await;
            tokio::time::sleep(LONGEST_WAIT).await;
            self.0.flush();
        }
    }

    /// The way past the batch, for changes of state.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.0.log
    }
}

impl Batch {
    fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if !lines.out.is_empty() {
            let spare = self.log.spare.take().and_then(|batch| String::from_utf8(batch).ok());
            // The next one is about as long: nothing is moved while it grows, and who is idle holds little.
            let next = spare.unwrap_or_else(|| String::with_capacity(lines.out.len().next_power_of_two()));
            let text = std::mem::replace(&mut lines.out, next);
            self.log.send(text.into_bytes(), self.records.take());
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What is known about one request at its end.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its id.
    pub id: RequestId,
    /// When it began.
    pub began: SystemTime,
    /// From its head to the end of its answer's body.
    pub took: Duration,
    /// The client's address.
    pub client: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// The answer's status; 499 where the client left before there was one.
    pub status: u16,
    /// The route's name, where one matched.
    pub route: Option<&'a str>,
    /// The principal, where one was proven.
    pub principal: Option<&'a str>,
    /// The role that opened the route.
    pub role: Option<&'a str>,
    /// The slug of the refusal or fault.
    pub reason: Option<&'static str>,
    /// Why, for the operator alone.
    pub cause: Option<&'a str>,
    /// Whether it belongs in the security record.
    pub security: bool,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// The pool that answered, or was to.
    pub pool: Option<&'a str>,
    /// The worker that answered.
    pub worker: Option<&'a str>,
    /// Until the worker's answer began.
    pub worker_took: Option<Duration>,
    /// What was cleaned in the body.
    pub normalized: Option<&'a str>,
    /// The limits that are only tried out and would have refused it.
    pub would_refuse: Option<&'a str>,
    /// Features with values that the model does not know.
    pub flagged: Option<&'a str>,
    /// The model that its body names.
    pub model: Option<&'a str>,
}

/// The beginning of a text that a client chose.
fn begin(text: &str) -> &str {
    let end = (0..=MOST_MODEL).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

impl Record<'_> {
    fn write(&self, line: &mut Line) {
        let path = self.path.get(..MOST_PATH).unwrap_or(self.path);
        match line.format {
            Format::Json => self.write_json(line, path),
            Format::Human { colour } => self.write_human(line, path, colour),
        }
    }

    fn write_json(&self, line: &mut Line, path: &str) {
        let mut said = None;
        if self.security {
            line.begin("security", self.began);
            line.text(key!("request_id"), self.id.as_str());
            line.text(key!("reason"), self.reason.unwrap_or_default());
            let begin = line.out.len();
            self.who_and_where(line, path);
            said = Some(begin..line.out.len());
            line.end();
        }
        line.begin("access", self.began);
        line.text(key!("request_id"), self.id.as_str());
        match said {
            Some(said) => line.out.extend_from_within(said),
            None => self.who_and_where(line, path),
        }
        line.text(key!("protocol"), self.protocol);
        line.optional(key!("reason"), self.reason);
        line.optional(key!("role"), self.role);
        line.optional(key!("pool"), self.pool);
        line.optional(key!("worker"), self.worker);
        line.optional(key!("normalized"), self.normalized);
        line.optional(key!("would_refuse"), self.would_refuse);
        line.optional(key!("flagged"), self.flagged);
        line.optional(key!("model"), self.model.map(begin));
        if let Some(took) = self.worker_took {
            line.micros(key!("worker_us"), took);
        }
        line.number(key!("bytes_in"), self.bytes_in);
        line.number(key!("bytes_out"), self.bytes_out);
        line.micros(key!("duration_us"), self.took);
        line.end();
    }

    fn who_and_where(&self, line: &mut Line, path: &str) {
        line.text(key!("client"), self.client);
        line.text(key!("method"), self.method);
        line.text(key!("path"), path);
        line.number(key!("status"), u64::from(self.status));
        line.optional(key!("route"), self.route);
        line.optional(key!("principal"), self.principal);
        line.optional(key!("cause"), self.cause);
    }

    fn write_human(&self, line: &mut Line, path: &str, colour: bool) {
        let code = match self.status {
            ..400 => "32",
            400..500 => "33",
            _ => "31",
        };
        let status = paint(colour, code, &self.status.to_string());
        let _ = write!(line.out, "{} {status} {} {} ", clock(self.began), Escaped(self.method), Escaped(path));
        let took = self.took.as_secs_f64() * 1e3;
        let _ = write!(line.out, "{} {took:.1}ms {}", self.principal.unwrap_or("-"), self.client);
        if let Some(reason) = self.reason {
            let _ = write!(line.out, " {}", paint(colour, code, reason));
        }
        if let Some(cause) = self.cause {
            let _ = write!(line.out, " ({})", Escaped(cause));
        }
        if let Some(limits) = self.would_refuse {
            let _ = write!(line.out, " would-refuse={limits}");
        }
        let _ = writeln!(line.out, " {}", paint(colour, "2", self.id.as_str()));
    }
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn clock(now: SystemTime) -> String {
    let now = OffsetDateTime::from(now);
    format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
}

/// Text that a client chose, without what could move a terminal's cursor.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// Lines as they grow.
#[derive(Debug)]
struct Line {
    format: Format,
    out: String,
    /// The last second that was written, and its text (RFC 3339 §5.6) up to the fraction.
    second: u64,
    second_text: String,
}

impl Line {
    fn new(format: Format) -> Self {
        Self { format, out: String::new(), second: u64::MAX, second_text: String::new() }
    }

    fn begin(&mut self, kind: &str, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() {
            self.second = since.as_secs();
            let at = OffsetDateTime::from(at);
            let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
            self.second_text = format!("{date}T{hour:02}:{minute:02}:{second:02}.");
        }
        self.out.push_str("{\"time\":\"");
        self.out.push_str(&self.second_text);
        // A digit in front keeps the zeros behind it; it is left out.
        let mut digits = itoa::Buffer::new();
        self.out.push_str(digits.format(1_000_000 + since.subsec_micros()).get(1..).unwrap_or("0"));
        self.out.push_str("Z\",\"log\":\"");
        self.out.push_str(kind);
        self.out.push('"');
    }

    /// A text, behind a [`key!`].
    fn text(&mut self, key: &'static str, value: &str) {
        self.out.push_str(key);
        self.out.push('"');
        self.value(value);
    }

    /// A text behind a key that is not known before.
    fn field(&mut self, key: &str, value: &str) {
        self.out.push_str(",\"");
        self.out.push_str(key);
        self.out.push_str("\":\"");
        self.value(value);
    }

    /// The rest of a text.
    fn value(&mut self, value: &str) {
        // Encoding is what keeps a client from writing lines of its own (ASVS 16.4.1).
        if is_plain_json(value) {
            self.out.push_str(value);
            self.out.push('"');
        } else {
            self.out.push_str(serde_json::to_string(value).unwrap_or_default().get(1..).unwrap_or("\""));
        }
    }

    fn optional(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.out.push_str(key);
        self.out.push_str(itoa::Buffer::new().format(value));
    }

    fn micros(&mut self, key: &'static str, value: Duration) {
        self.number(key, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    fn end(&mut self) {
        self.out.push_str("}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RequestIds;

    fn record(path: &str) -> Record<'_> {
        Record {
            id: RequestIds::new([1; 16]).next(),
            began: SystemTime::UNIX_EPOCH,
            took: Duration::from_micros(1_500),
            client: "203.0.113.7",
            method: "POST",
            path,
            protocol: "HTTP/1.1",
            status: 401,
            route: Some("predict"),
            principal: None,
            role: None,
            reason: Some("api-key-unknown"),
            cause: None,
            security: true,
            bytes_in: 0,
            bytes_out: 120,
            pool: None,
            worker: None,
            worker_took: None,
            normalized: None,
            would_refuse: None,
            flagged: None,
            model: None,
        }
    }

    /// A disk that is full for a while, in the middle of a batch.
    #[derive(Default)]
    struct Disk {
        written: Vec<u8>,
        asked: usize,
    }

    impl io::Write for Disk {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.asked += 1;
            let taken = match self.asked {
                2 => 4,
                3 | 4 => return Err(io::ErrorKind::StorageFull.into()),
                _ => octets.len(),
            };
            self.written.extend_from_slice(&octets[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_tears_no_record_that_comes_later() {
        let (mut disk, dropped) = (Disk::default(), AtomicU64::new(0));
        let (sender, receiver) = sync_channel(MOST_WAITING);
        for batch in ["first\n", "second\nthird\n", "fourth\n", "fifth\n", ""] {
            sender.send(batch.into()).expect("there is room");
        }
        let spare = Spare::default();
        write_all(&receiver, &mut disk, &dropped, &spare);
        assert_eq!(String::from_utf8_lossy(&disk.written), "first\nseco\nfifth\n");
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        // Their memory is not worth keeping; a full batch's is, without what stood in it.
        assert_eq!(spare.take(), None);
        spare.put(vec![b'x'; FULL_BATCH]);
        assert_eq!(spare.take(), Some(Vec::new()));
    }

    #[test]
    fn a_client_can_not_write_lines_of_its_own() {
        for format in [Format::Json, Format::Human { colour: false }] {
            let mut line = Line::new(format);
            record("/a\n{\"log\":\"event\"}\x1b[2J").write(&mut line);
            let lines: Vec<&str> = line.out.lines().collect();
            assert_eq!(lines.len(), if format == Format::Json { 2 } else { 1 });
            assert!(!line.out.contains('\x1b'));
        }
    }

    #[test]
    fn json_records_are_json() {
        let mut line = Line::new(Format::Json);
        record("/predict").write(&mut line);
        let records: Vec<serde_json::Value> =
            line.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let kinds: Vec<_> = records.iter().map(|r| r["log"].as_str()).collect();
        assert_eq!(kinds, [Some("security"), Some("access")]);
        assert!(records.iter().all(|r| r["reason"] == "api-key-unknown" && r["status"] == 401));
    }
}
