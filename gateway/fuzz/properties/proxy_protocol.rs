//! Headers of the PROXY protocol, version 2, held against a reading of HAProxy's `proxy-protocol.txt`.
//!
//! An input's first octet chooses: the rest as it is, or a header that is made of it (command, family, body) with the
//! length that fits, and with the right checksum where it has one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use gateway::proxy_protocol::{Fault, LONGEST, Parsed, parse};

const SIGNATURE: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";

/// What a header says, or that there is none that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Whole {
        length: usize,
        source: Option<SocketAddr>,
    },
    /// More is to come: up to a header of this length, where that is known.
    Part {
        length: Option<usize>,
    },
    Refused,
}

/// What must hold for the first octets of every connection.
pub(crate) fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let octets = if kind & 1 == 0 { rest.to_vec() } else { made(rest) };
    let mut settled = None;
    // Every beginning of it: what was said once stands, and says the same as the reading.
    let beginnings = (0..=octets.len()).filter(|length| *length < 64 || length + 8 > octets.len());
    for length in beginnings {
        let beginning = &octets[..length];
        let parsed = parse(beginning);
        match (parsed, read(beginning)) {
            (Parsed::Complete { consumed, source }, Read::Whole { length: end, source: client }) => {
                assert_eq!((consumed, source), (end, client), "{beginning:02x?}");
                assert!(consumed <= length && consumed <= LONGEST);
            }
            (Parsed::Incomplete { needed }, Read::Part { length: end }) => {
                assert!(needed > length, "{needed} of {length} are there");
                assert!(needed <= end.unwrap_or(16), "asks for what may be another's");
            }
            (Parsed::Fault(fault), Read::Refused) => {
                assert!(!fault.reason().is_empty());
                assert_eq!(fault == Fault::Version1, beginning.starts_with(b"PROXY "), "{fault:?}");
            }
            (parsed, read) => panic!("{beginning:02x?} is {parsed:?}, and read as {read:?}"),
        }
        if !matches!(parsed, Parsed::Incomplete { .. }) {
            assert_eq!(*settled.get_or_insert(parsed), parsed, "another verdict on more");
        }
        assert!(settled.is_none_or(|settled| settled == parsed), "a verdict was taken back");
    }
}

/// A header of command, family and body, with what hangs on them computed.
fn made(rest: &[u8]) -> Vec<u8> {
    let (head, body) = rest.split_at(rest.len().min(2));
    let command = head.first().copied().unwrap_or(0x21);
    let family = head.get(1).copied().unwrap_or(0x11);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let body = &body[..usize::from(length)];
    let mut octets = [SIGNATURE, &[command, family], &length.to_be_bytes(), body].concat();
    let addresses = if family == 0x11 { 12 } else { 36 };
    if let Some(Some(at)) = checksum_at(&octets, 16 + addresses) {
        octets[at..at + 4].fill(0);
        let sum = crc32c(&octets);
        octets[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    octets
}

/// §2.2: the header, whole or in part.
fn read(octets: &[u8]) -> Read {
    let text = b"PROXY ";
    if octets.starts_with(text) {
        return Read::Refused;
    }
    if octets.len() < 16 {
        let begun = text.starts_with(octets) || octets.starts_with(&SIGNATURE[..octets.len().min(12)]);
        return if begun { Read::Part { length: octets.starts_with(b"P").then_some(6) } } else { Read::Refused };
    }
    let whole = 16 + (usize::from(octets[14]) << 8 | usize::from(octets[15]));
    // What the gateway does not take stands beside what the protocol does not have: datagrams, Unix sockets.
    let need = match (&octets[..12] == SIGNATURE, octets[12], octets[13]) {
        (true, 0x20, _) | (true, 0x21, 0x00) => 0,
        (true, 0x21, 0x11) => 12,
        (true, 0x21, 0x21) => 36,
        _ => return Read::Refused,
    };
    if whole > LONGEST || whole < 16 + need {
        return Read::Refused;
    }
    let Some(header) = octets.get(..whole) else { return Read::Part { length: Some(whole) } };
    if need == 0 {
        return Read::Whole { length: whole, source: None };
    }
    // §2.2.3: what does not fit is no header, nor one whose checksum is another's.
    match checksum_at(header, 16 + need) {
        None => return Read::Refused,
        Some(None) => {}
        Some(Some(at)) => {
            let said = &header[at..at + 4];
            let zeroed = [&header[..at], &[0; 4], &header[at + 4..]].concat();
            if crc32c(&zeroed).to_be_bytes() != said {
                return Read::Refused;
            }
        }
    }
    let half = (need - 4) / 2;
    let address = if half == 4 {
        IpAddr::from([header[16], header[17], header[18], header[19]])
    } else {
        let groups: Vec<u16> =
            header[16..32].chunks(2).map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1])).collect();
        let groups: [u16; 8] = groups.try_into().unwrap_or_default();
        // An IPv4 client may be written in IPv6 (RFC 4291 §2.5.5.2), and is the same client.
        match groups {
            [0, 0, 0, 0, 0, 0xffff, high, low] => {
                let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
                IpAddr::from([a, b, c, d])
            }
            groups => Ipv6Addr::from(groups).into(),
        }
    };
    let port = u16::from(header[16 + 2 * half]) << 8 | u16::from(header[17 + 2 * half]);
    Read::Whole { length: whole, source: Some(SocketAddr::new(address, port)) }
}

/// Where the extensions from `at` on have the checksum; `None` where they can't be read.
fn checksum_at(header: &[u8], mut at: usize) -> Option<Option<usize>> {
    let mut found = None;
    while at < header.len() {
        let (kind, length) = match header[at..] {
            [kind, high, low, ..] => (kind, usize::from(high) << 8 | usize::from(low)),
            _ => return None,
        };
        at += 3;
        if at + length > header.len() {
            return None;
        }
        if kind == 3 {
            if length != 4 || found.is_some() {
                return None;
            }
            found = Some(at);
        }
        at += length;
    }
    Some(found)
}

/// CRC32c, from the most significant bit on: the polynomial as RFC 4960 writes it, and every octet turned round.
fn crc32c(octets: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for octet in octets {
        remainder ^= u32::from(octet.reverse_bits()) << 24;
        for _ in 0..8 {
            let carry = remainder >> 31 == 1;
            remainder <<= 1;
            if carry {
                remainder ^= 0x1EDC_6F41;
            }
        }
    }
    (!remainder).reverse_bits()
}
