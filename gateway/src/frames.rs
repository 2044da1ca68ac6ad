//! HTTP/2 frames as they arrive, counted on their way to hyper.
//!
//! Source: RFC 9113 §4.1, §6, §10.5. hyper answers every PING and SETTINGS and takes every `WINDOW_UPDATE`,
//! PRIORITY and unknown frame for as long as they come, and no request has to come of any of them. This reads
//! the nine octets that each frame begins with, passes over the rest, and charges the kinds that cost us work
//! without being work. Whoever floods is told to be calm and is gone. Never looks into a payload or a head.
//! Pure: octets in, a verdict out.

use std::time::{Duration, Instant};

/// What a connection was flooded with, by the names of metrics and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// PING: each is answered.
    Ping,
    /// SETTINGS: each is answered.
    Settings,
    /// `WINDOW_UPDATE`: each wakes what waits for a window.
    WindowUpdate,
    /// PRIORITY and `PRIORITY_UPDATE`, which nothing here obeys.
    Priority,
    /// `RST_STREAM`: what was begun for the stream is thrown away (CVE-2023-44487).
    Reset,
    /// Frames of types that nobody knows, and a second GOAWAY.
    Unknown,
    /// DATA with little or nothing in it, and more to come.
    Data,
    /// Faults that we answer with `RST_STREAM` (CVE-2025-8671), as hyper counts them.
    Fault,
    /// Heads in too many parts, or far larger than allowed, as hyper counts them (CVE-2024-27316).
    Head,
}

impl Flood {
    /// Their names, in order.
    pub const NAMES: [&'static str; 9] =
        ["ping", "settings", "window-update", "priority", "reset", "unknown", "data", "fault", "head"];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// What hyper ends a connection for by itself, by the last octets that it writes: those of a GOAWAY with
    /// `ENHANCE_YOUR_CALM` and a word (RFC 9113 §6.8).
    #[must_use]
    pub fn told(written: &[u8]) -> Option<Self> {
        let words: [(&[u8], Self); 5] = [
            (b"too_many_resets", Self::Reset),
            (b"too_many_internal_resets", Self::Fault),
            (b"too_many_continuations", Self::Head),
            (b"header_list_way_too_large", Self::Head),
            (b"too_many_data_frames", Self::Data),
        ];
        let told = |word| written.strip_suffix(word).is_some_and(|rest| rest.ends_with(&[0, 0, 0, 0xb]));
        words.into_iter().find_map(|(word, flood)| told(word).then_some(flood))
    }
}

/// How many frames of one kind a connection may send without work to show for it.
struct Allowance {
    /// At once.
    burst: u32,
    /// In each second beyond that.
    per_second: u32,
    /// For each piece of work done, as [`Work`] counts it.
    per_work: u32,
    /// What counts as work.
    work: Work,
}

/// What counts as work for an allowance, beside each KiB of DATA that we wrote.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Each part of an answer that was there to be sent.
    Part,
    /// Each answer whose last DATA was written. It alone needs room that the client gives (RFC 9113 §5.2), and
    /// an answer that has none stays with us.
    Answer,
}

/// By [`Flood`], the kinds that are counted here. Each is far above what browsers, curl, nghttp2 and gRPC do.
const ALLOWANCES: [Allowance; 7] = [
    // Keep-alive asks every few seconds; gRPC's probes for bandwidth ask once for each DATA that comes.
    Allowance { burst: 100, per_second: 10, per_work: 1, work: Work::Part },
    // One at the beginning, and seldom another. None of them is for an answer.
    Allowance { burst: 32, per_second: 1, per_work: 0, work: Work::Part },
    // One at the beginning of each stream, and two for each DATA where a client gives back every octet at once.
    Allowance { burst: 1000, per_second: 100, per_work: 4, work: Work::Part },
    // Trees of five groups at the beginning, then one or two for each stream.
    Allowance { burst: 200, per_second: 20, per_work: 2, work: Work::Part },
    // A page that is left gives up everything on it, twice as many as may be at once. Whoever takes answers
    // to their end earns that back. An answer that is given up while the connection has no room for it leaves
    // its stream in h2's queue for that room, which is why neither its beginning nor mere time is credited.
    Allowance { burst: 200, per_second: 20, per_work: 1, work: Work::Answer },
    // GREASE: one for each request now and then (RFC 8701).
    Allowance { burst: 100, per_second: 10, per_work: 1, work: Work::Part },
    // Speech and events come in tens of parts a second. What nobody has read yet hyper bounds more tightly.
    Allowance { burst: 2000, per_second: 1000, per_work: 2, work: Work::Part },
];

/// Octets of the client's preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// A frame's header: three octets of length, type, flags, four of stream.
const HEADER: usize = 9;
/// DATA below this costs more to pass on than to send.
const LITTLE: usize = 512;
const END_STREAM: u8 = 1;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// Where one direction of a connection is.
#[derive(Debug, Default)]
struct Place {
    /// Octets until the next frame's header: of the preface, or of a payload.
    skip: usize,
    /// How much of a header has been read, and its length so far.
    read: usize,
    length: usize,
    kind: u8,
    flags: u8,
}

impl Place {
    /// Passes over what is no header; gives back how much of it there was.
    fn pass(&mut self, octets: usize) -> usize {
        let passed = self.skip.min(octets);
        self.skip -= passed;
        passed
    }

    /// Takes one octet of a header; `true` where it was the last.
    fn header(&mut self, octet: u8) -> bool {
        match self.read {
            0 => self.length = usize::from(octet),
            1 | 2 => self.length = self.length << 8 | usize::from(octet),
            3 => self.kind = octet,
            4 => self.flags = octet,
            _ => {}
        }
        self.read += 1;
        let is_whole = self.read == HEADER;
        if is_whole {
            self.read = 0;
            self.skip = self.length;
        }
        is_whole
    }
}

/// One connection's frames.
#[derive(Debug)]
pub struct Frames {
    theirs: Place,
    ours: Place,
    first: bool,
    /// Octets of DATA that we wrote, up to the next KiB.
    given: usize,
    /// Whether DATA was written since time was credited last.
    has_given: bool,
    spent: [u32; ALLOWANCES.len()],
    /// Since when time has not been credited.
    since: Instant,
    flood: Option<Flood>,
    /// Octets of the farewell that were given out.
    farewell: Option<usize>,
}

impl Frames {
    /// A connection at its beginning.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            theirs: Place { skip: PREFACE, ..Place::default() },
            ours: Place::default(),
            first: true,
            given: 0,
            has_given: false,
            spent: [0; ALLOWANCES.len()],
            since: now,
            flood: None,
            farewell: None,
        }
    }

    /// What this connection was ended for, if it was.
    #[must_use]
    pub fn flood(&self) -> Option<Flood> {
        self.flood
    }

    /// Whether nothing more of what comes is to be passed on, but [`Frames::say_farewell`].
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.farewell.is_some()
    }

    /// Credits parts of answers that were there to be sent.
    pub fn earn(&mut self, parts: u32) {
        if parts > 0 {
            self.credit(Work::Part, parts);
        }
    }

    fn credit(&mut self, work: Work, count: u32) {
        for (spent, allowance) in self.spent.iter_mut().zip(&ALLOWANCES).filter(|(_, it)| it.work == work) {
            *spent = spent.saturating_sub(allowance.per_work.saturating_mul(count));
        }
    }

    /// Follows what is written to the client, and credits the DATA in it.
    pub fn wrote(&mut self, octets: &[u8]) {
        let mut at = 0;
        while at < octets.len() {
            at += self.ours.pass(octets.len() - at);
            while let Some(octet) = octets.get(at).filter(|_| self.ours.skip == 0) {
                at += 1;
                if self.ours.header(*octet) {
                    self.credit_data();
                }
            }
        }
    }

    /// Credits the frame of ours whose header was written.
    fn credit_data(&mut self) {
        if self.ours.kind != DATA || self.ours.length == 0 {
            return;
        }
        self.has_given = true;
        self.given += self.ours.length;
        let kib = u32::try_from(self.given >> 10).unwrap_or(u32::MAX);
        self.given &= 0x3ff;
        self.credit(Work::Part, kib);
        self.credit(Work::Answer, kib + u32::from(self.ours.flags & END_STREAM));
    }

    /// Follows the next octets, and gives back how many of them may be passed on: all, but behind the frame
    /// that is too much. `now` is asked only where an allowance is spent.
    pub fn follow(&mut self, octets: &mut [u8], now: impl Fn() -> Instant) -> usize {
        let mut at = 0;
        while at < octets.len() && self.farewell.is_none() {
            at += self.theirs.pass(octets.len() - at);
            while let Some(octet) = octets.get_mut(at).filter(|_| self.theirs.skip == 0 && self.flood.is_none()) {
                at += 1;
                // RFC 9113 §3.4: settings come first, which hyper does not ask for. What can't stand here ends the
                // connection as what stands here should.
                if self.theirs.read == 3 && std::mem::take(&mut self.first) && *octet != SETTINGS {
                    *octet = CONTINUATION;
                }
                if self.theirs.header(*octet) {
                    self.flood = self.charge(&now);
                }
            }
            if self.theirs.skip == 0 && self.flood.is_some() {
                self.farewell = Some(0);
            }
        }
        at
    }

    /// Charges the frame whose header was read; gives back what it is too much of.
    fn charge(&mut self, now: impl Fn() -> Instant) -> Option<Flood> {
        let flood = match self.theirs.kind {
            DATA if self.theirs.length < LITTLE && self.theirs.flags & END_STREAM == 0 => Flood::Data,
            DATA | HEADERS | CONTINUATION => return None,
            2 | 0x10 => Flood::Priority,
            3 => Flood::Reset,
            SETTINGS => Flood::Settings,
            6 => Flood::Ping,
            8 => Flood::WindowUpdate,
            _ => Flood::Unknown,
        };
        let place = flood as usize;
        let burst = ALLOWANCES.get(place)?.burst;
        *self.spent.get_mut(place)? += 1;
        if *self.spent.get(place)? > burst {
            self.credit_time(now());
        }
        (*self.spent.get(place)? > burst).then_some(flood)
    }

    /// Credits whole seconds.
    fn credit_time(&mut self, now: Instant) {
        let seconds = u32::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(u32::MAX);
        self.since += Duration::from_secs(seconds.into());
        for (spent, allowance) in self.spent.iter_mut().zip(&ALLOWANCES) {
            if allowance.work == Work::Part || self.has_given {
                *spent = spent.saturating_sub(allowance.per_second.saturating_mul(seconds));
            }
        }
        self.has_given &= seconds == 0;
    }

    /// Fills `octets` with what is to be passed on instead of what the client sends: a head in endless parts, which
    /// hyper answers with GOAWAY and `ENHANCE_YOUR_CALM` behind all that it has begun to write.
    pub fn say_farewell(&mut self, octets: &mut [u8]) {
        const STREAM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
        let said = self.farewell.get_or_insert(0);
        for octet in octets {
            *octet = match *said % HEADER {
                3 if *said < HEADER => HEADERS,
                3 => CONTINUATION,
                at @ 5.. => STREAM.get(at - 5).copied().unwrap_or_default(),
                _ => 0,
            };
            *said = said.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flood, Frames, PREFACE};
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u16::try_from(length).expect("a short payload").to_be_bytes();
        [&[0, size[0], size[1], kind, 0, 0, 0, 0, 0][..], &vec![0xee; length]].concat()
    }

    fn begun() -> Vec<u8> {
        [vec![b'p'; PREFACE], frame(4, 6)].concat()
    }

    /// How many octets pass, and what is said then.
    fn follow(frames: &mut Frames, octets: &[u8], now: Instant) -> (usize, Option<Flood>) {
        let mut passed = octets.to_vec();
        let length = frames.follow(&mut passed, || now);
        assert_eq!(passed, octets, "nothing is changed on its way");
        (length, frames.flood())
    }

    #[test]
    fn work_is_free() {
        let now = Instant::now();
        let mut frames = Frames::new(now);
        let mut last = frame(0, 80);
        last[4] = 1;
        let requests = [frame(1, 60), last, frame(0, 512), frame(9, 5)].concat().repeat(10_000);
        let octets = [begun(), requests].concat();
        assert_eq!(follow(&mut frames, &octets, now), (octets.len(), None));
    }

    #[test]
    fn each_kind_has_its_bound_and_what_is_behind_it_never_passes() {
        for (kind, length, burst, flood) in [
            (6, 8, 100, Flood::Ping),
            // One stands at the beginning.
            (4, 0, 31, Flood::Settings),
            (8, 4, 1000, Flood::WindowUpdate),
            (2, 5, 200, Flood::Priority),
            (0x10, 7, 200, Flood::Priority),
            (3, 4, 200, Flood::Reset),
            (0xfa, 3, 100, Flood::Unknown),
            (7, 8, 100, Flood::Unknown),
            (0, 511, 2000, Flood::Data),
        ] {
            let now = Instant::now();
            let mut frames = Frames::new(now);
            let good = [begun(), frame(kind, length).repeat(burst)].concat();
            assert_eq!(follow(&mut frames, &good, now), (good.len(), None), "{flood:?}");
            let one = frame(kind, length);
            let more = [one.clone(), frame(1, 9)].concat();
            assert_eq!(follow(&mut frames, &more, now), (one.len(), Some(flood)), "the last passes whole");
            assert!(frames.is_ended());
            assert_eq!(follow(&mut frames, &more, now).0, 0);
        }
    }

    #[test]
    fn time_and_work_are_credited() {
        let begin = Instant::now();
        let mut frames = Frames::new(begin);
        follow(&mut frames, &begun(), begin);
        let pings = |count| frame(6, 8).repeat(count);
        assert_eq!(follow(&mut frames, &pings(100), begin).1, None);
        let later = begin + Duration::from_millis(2_900);
        assert_eq!(follow(&mut frames, &pings(20), later).1, None, "two whole seconds");
        frames.earn(6);
        for part in [frame(1, 100), frame(0, 10).repeat(5), frame(0, 974)].concat().chunks(7) {
            frames.wrote(part);
        }
        assert_eq!(follow(&mut frames, &pings(7), later).1, None, "six parts of answers, and 1 KiB");
        assert_eq!(follow(&mut frames, &pings(1), later).1, Some(Flood::Ping));
    }

    /// Resets of answers that nobody makes room for pile up in h2.
    #[test]
    fn a_reset_is_earned_by_what_is_taken() {
        let begin = Instant::now();
        let later = begin + Duration::from_secs(5);
        let mut end = frame(0, 10);
        end[4] = 1;
        for (ours, resets) in [
            (Vec::new(), 0),
            (frame(1, 2000), 0),
            (frame(0, 0), 0),
            // Five seconds of 20.
            (frame(0, 10), 100),
            (end.repeat(3), 103),
        ] {
            let mut frames = Frames::new(begin);
            follow(&mut frames, &[begun(), frame(3, 4).repeat(200)].concat(), begin);
            frames.wrote(&ours);
            assert_eq!(follow(&mut frames, &frame(3, 4).repeat(resets), later).1, None);
            assert_eq!(follow(&mut frames, &frame(3, 4), later).1, Some(Flood::Reset), "{ours:?}");
        }
    }

    #[test]
    fn what_comes_first_are_settings() {
        let mut octets = [vec![b'p'; PREFACE], frame(1, 3)].concat();
        let mut frames = Frames::new(Instant::now());
        assert_eq!(frames.follow(&mut octets, Instant::now), octets.len());
        assert_eq!(octets[PREFACE..], [0, 0, 3, 9, 0, 0, 0, 0, 0, 0xee, 0xee, 0xee], "what can't stand there");
    }

    #[test]
    fn the_farewell_is_the_same_in_any_pieces() {
        let mut frames = Frames::new(Instant::now());
        let mut said = vec![0; 30];
        let (first, second) = said.split_at_mut(7);
        frames.say_farewell(first);
        frames.say_farewell(second);
        let head = [0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff];
        let more = [0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(said, [&head[..], &more, &more, &more[..3]].concat());
    }

    #[test]
    fn what_hyper_says_by_itself_is_known() {
        assert_eq!(Flood::told(b"\0\0\x17\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x0btoo_many_resets"), Some(Flood::Reset));
        assert_eq!(Flood::told(b"an answer about too_many_resets"), None);
        assert_eq!(Flood::told(b""), None);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(1usize..200, 1..60), kinds in prop::collection::vec(0u8..12, 1..400)) {
            let now = Instant::now();
            let octets = kinds.iter().fold(begun(), |octets, kind| [octets, frame(*kind, usize::from(*kind))].concat());
            let mut whole = Frames::new(now);
            let passed = whole.follow(&mut octets.clone(), || now);
            let mut pieces = Frames::new(now);
            let mut sum = 0;
            let mut rest = &octets[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                sum += pieces.follow(&mut piece.to_vec(), || now);
                rest = more;
            }
            prop_assert_eq!((sum, pieces.flood(), pieces.is_ended()), (passed, whole.flood(), whole.is_ended()));
        }
    }
}
