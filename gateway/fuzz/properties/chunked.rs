//! `wire`, which follows HTTP/1 streams in place, held against a reader that has the whole stream.
//!
//! An input's first octet chooses what stands before the stream: nothing, or a head that announces chunks. The next
//! eight are the lengths of pieces, over and over; the rest is the stream.

use gateway::wire::{Bounds as WireBounds, Wire};

use crate::http1::{self, Bounds, End, Reading};

const WIRE: WireBounds = WireBounds { head: 1 << 10, headers: 12 };
const BOUNDS: Bounds = Bounds { head: 1 << 10, fields: 12, target: 8 << 10, chunk_line: 256, trailers: 32 };
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What must hold for every stream, however it is cut.
pub(crate) fn check(input: &[u8]) {
    let Some((&[kind, ref cuts @ ..], stream)) = input.split_first_chunk::<9>() else { return };
    let mut stream = stream.to_vec();
    if kind & 1 == 1 {
        stream.splice(..0, CHUNKED.iter().copied());
    }
    let reading = http1::read(&stream, &BOUNDS, &is_taken);
    follows(&stream, [stream.len().max(1)].into_iter(), &reading);
    follows(&stream, cuts.iter().map(|cut| usize::from(*cut % 64) + 1), &reading);
    follows(&stream, [1].into_iter(), &reading);
    ends_agree(&stream, &reading);
}

/// Whether the gateway takes a target that the grammar does not have.
fn is_taken(target: &[u8]) -> bool {
    let request = [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
    Wire::new(WireBounds { head: 16 << 10, headers: 1 }).follow(&request) == request.len()
}

/// Follows a stream in pieces, and holds what was passed on against what was read.
fn follows(stream: &[u8], cuts: impl Iterator<Item = usize> + Clone, reading: &Reading) {
    let mut wire = Wire::new(WIRE);
    let (mut passed, mut rest) = (0, stream);
    for cut in cuts.cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, more) = rest.split_at(cut.min(rest.len()));
        let count = wire.follow(piece);
        assert!(count == piece.len() || wire.is_ended(), "kept {count} of {piece:?} back and goes on: {wire:?}");
        passed += count;
        rest = more;
    }
    match reading.end {
        End::Clean | End::Short => {
            assert_eq!((wire.fault(), wire.is_ended()), (None, false), "refused, and can be read");
            assert_eq!(passed, stream.len());
        }
        End::Head { line, seen } => {
            // What shows at a line may be said at the end of the head, and no later.
            let head_end = stream[seen..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| seen + at + 4);
            assert!(wire.fault().is_some() || head_end.is_none(), "a head passed that is wrong at {line}..{seen}");
            assert_eq!((wire.is_ended(), wire.is_body_broken()), (wire.fault().is_some(), false));
            let most = head_end.map_or(stream.len(), |end| end - 1);
            assert!((line..=most).contains(&passed), "passed on {passed}, wrong at {line}..{seen}");
        }
        End::Chunks { line, seen } => {
            assert_eq!((wire.fault(), wire.is_body_broken()), (None, true), "wrong at {line}..{seen}");
            assert!((line..=seen).contains(&passed), "passed on {passed}, wrong at {line}..{seen}");
        }
    }
    assert!(!wire.is_ended() || wire.follow(b"GET / HTTP/1.1\r\n\r\n") == 0, "goes on after its end");
}

/// Messages end where they are read to end: nowhere before, and exactly there.
fn ends_agree(stream: &[u8], reading: &Reading) {
    let mut wire = Wire::new(WIRE);
    assert!(wire.is_between());
    let mut at = 0;
    for message in &reading.messages {
        wire.follow(&stream[at..message.end - 1]);
        assert!(!wire.is_between(), "ends before {}", message.end);
        wire.follow(&stream[message.end - 1..message.end]);
        assert!(wire.is_between(), "does not end at {}: {wire:?}", message.end);
        at = message.end;
    }
}
