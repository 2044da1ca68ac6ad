//! The header of the PROXY protocol, version 2: which client a proxy before us speaks for.
//!
//! Source: `proxy-protocol.txt` of HAProxy, §2.2 to §2.2.4. Pure: octets in, a verdict out, nothing
//! allocated. Reads only the binary form; never looks behind the header. Who may send one is not asked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with, which is text and not taken.
const TEXT: [u8; 6] = *b"PROXY ";
/// Signature, command, family and length.
const FIXED: usize = 16;
/// The longest header that is read. Addresses take at most 36 octets of it; the rest is for extensions.
pub const LONGEST: usize = 4096;

/// The extension that protects the header (§2.2.3).
const CRC32C: u8 = 0x03;

/// What the first octets of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header.
    Complete {
        /// How many octets it has.
        consumed: usize,
        /// The client, where the proxy speaks for one that has an address. Without one the peer itself is
        /// meant: a health check of the proxy, or a client of a kind that the proxy can't name.
        source: Option<SocketAddr>,
    },
    /// The beginning of a header.
    Incomplete {
        /// How many octets the header has at least. Never more than it has, so that whoever reads only as
        /// many reads nothing behind it.
        needed: usize,
    },
    /// No header that is taken.
    Fault(Fault),
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Absent,
    /// It is the text form.
    Version1,
    /// A version that is not 2.
    Version,
    /// A command other than LOCAL and PROXY.
    Command,
    /// An address family or transport that the protocol does not have.
    Family,
    /// Datagrams.
    Datagram,
    /// A Unix socket.
    Unix,
    /// Longer than [`LONGEST`].
    TooLong,
    /// Too short for its addresses.
    TooShort,
    /// Its extensions do not fit into it.
    Extension,
    /// It does not have the checksum that it says.
    Checksum,
}

impl Fault {
    /// What is wrong and what to do, for the operator.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => {
                "the connection does not begin with a PROXY protocol header; let the proxy send one, version 2"
            }
            Self::Version1 => "the header is version 1, the text form; let the proxy send version 2, the binary form",
            Self::Version => "the header is of a version that is not 2",
            Self::Command => "the header's command is neither LOCAL nor PROXY",
            Self::Family => "the header's address family or transport does not exist",
            Self::Datagram => "the header speaks of datagrams, and this is a stream",
            Self::Unix => "the header names a Unix socket, which is no address that limits can count by",
            Self::TooLong => "the header is longer than 4096 octets",
            Self::TooShort => "the header is too short for its addresses",
            Self::Extension => "the header's extensions do not fit into it",
            Self::Checksum => "the header's checksum does not fit it",
        }
    }
}

/// Reads the first octets of a connection. What follows the header is not looked at, and the verdict on a
/// part never differs from the one on the whole.
#[must_use]
pub fn parse(octets: &[u8]) -> Parsed {
    match header(octets) {
        Ok((consumed, source)) => Parsed::Complete { consumed, source },
        Err(Stop::Incomplete(needed)) => Parsed::Incomplete { needed },
        Err(Stop::Fault(fault)) => Parsed::Fault(fault),
    }
}

enum Stop {
    Incomplete(usize),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether one is the beginning of the other.
fn begin_alike(octets: &[u8], expected: &[u8]) -> bool {
    octets.iter().zip(expected).all(|(a, b)| a == b)
}

fn header(octets: &[u8]) -> Result<(usize, Option<SocketAddr>), Stop> {
    if !begin_alike(octets, &SIGNATURE) {
        return Err(match begin_alike(octets, &TEXT) {
            false => Fault::Absent.into(),
            true if octets.len() < TEXT.len() => Stop::Incomplete(TEXT.len()),
            true => Fault::Version1.into(),
        });
    }
    let Some((fixed, rest)) = octets.split_first_chunk::<FIXED>() else { return Err(Stop::Incomplete(FIXED)) };
    let [.., command, family, high, low] = *fixed;
    let local = match (command >> 4, command & 0xf) {
        (2, 0) => true,
        (2, 1) => false,
        (2, _) => return Err(Fault::Command.into()),
        _ => return Err(Fault::Version.into()),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = FIXED + length;
    if whole > LONGEST {
        return Err(Fault::TooLong.into());
    }
    // LOCAL says that the proxy speaks for itself; its family and addresses are to be ignored.
    let addresses = match (local, family) {
        (true, _) | (false, 0x00) => 0,
        (false, 0x11) => 12,
        (false, 0x21) => 36,
        (false, 0x12 | 0x22) => return Err(Fault::Datagram.into()),
        (false, 0x31 | 0x32) => return Err(Fault::Unix.into()),
        _ => return Err(Fault::Family.into()),
    };
    if length < addresses {
        return Err(Fault::TooShort.into());
    }
    let Some(body) = rest.get(..length) else { return Err(Stop::Incomplete(whole)) };
    if addresses == 0 {
        return Ok((whole, None));
    }
    extensions(fixed, body, addresses)?;
    Ok((whole, source(body, addresses)))
}

/// The first address and the first port.
fn source(body: &[u8], addresses: usize) -> Option<SocketAddr> {
    let (address, port): (IpAddr, _) = if addresses == 12 {
        (Ipv4Addr::from(*body.first_chunk::<4>()?).into(), body.get(8..10)?)
    } else {
        (Ipv6Addr::from(*body.first_chunk::<16>()?).into(), body.get(32..34)?)
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port.first_chunk()?)))
}

/// Goes over the extensions: each is a type, two octets of length, and so many octets.
fn extensions(fixed: &[u8; FIXED], body: &[u8], mut at: usize) -> Result<(), Fault> {
    let mut checksum = None;
    while let Some((kind, rest)) = body.get(at..).and_then(<[u8]>::split_first) {
        let (length, rest) = rest.split_first_chunk().ok_or(Fault::Extension)?;
        let value = rest.get(..usize::from(u16::from_be_bytes(*length))).ok_or(Fault::Extension)?;
        at += 3;
        if *kind == CRC32C {
            // A second one could not be told from the first, which counts as zeros.
            let value = value.try_into().map_err(|_| Fault::Extension)?;
            if checksum.replace((at, u32::from_be_bytes(value))).is_some() {
                return Err(Fault::Extension);
            }
        }
        at += value.len();
    }
    let Some((at, expected)) = checksum else { return Ok(()) };
    let (before, after) = body.split_at_checked(at).ok_or(Fault::Extension)?;
    let after = after.get(4..).ok_or(Fault::Extension)?;
    let octets = fixed.iter().chain(before).chain(&[0; 4]).chain(after);
    if crc32c(octets) == expected { Ok(()) } else { Err(Fault::Checksum) }
}

/// The checksum of RFC 4960, appendix B, bit by bit: a header is short, and comes once in a connection.
fn crc32c<'o>(octets: impl Iterator<Item = &'o u8>) -> u32 {
    !octets.fold(u32::MAX, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::{CRC32C, FIXED, Fault, LONGEST, Parsed, SIGNATURE, crc32c, parse};
    use proptest::prelude::*;

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0xd4, 0x31, 0x20, 0xfb];

    fn v6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().expect("a literal address");
        [&source.octets()[..], &[0; 16], &[0xd4, 0x31, 0x20, 0xfb]].concat()
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("two octets of length").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).expect("two octets of length").to_be_bytes();
        [&[kind], &length[..], value].concat()
    }

    /// A header for IPv4 whose checksum is right, with another extension on either side of it.
    fn with_checksum() -> Vec<u8> {
        let body = [&V4[..], &extension(1, b"h2"), &extension(CRC32C, &[0; 4]), &extension(2, b"a.test")].concat();
        let mut octets = header(0x21, 0x11, &body);
        let sum = crc32c(octets.iter()).to_be_bytes();
        let at = FIXED + 12 + 5 + 3;
        octets[at..at + 4].copy_from_slice(&sum);
        octets
    }

    /// What a whole header gives: the client's address, `-` where none is named, or why it is refused.
    fn verdict(octets: &[u8]) -> Result<String, Fault> {
        match parse(octets) {
            Parsed::Complete { consumed, source } => {
                assert_eq!(consumed, octets.len());
                Ok(source.map_or("-".into(), |source| source.to_string()))
            }
            Parsed::Incomplete { .. } => panic!("incomplete: {octets:x?}"),
            Parsed::Fault(fault) => Err(fault),
        }
    }

    #[test]
    fn headers_that_are_taken() {
        let noop = extension(4, &[0; 9]);
        for (what, octets, client) in [
            ("IPv4", header(0x21, 0x11, &V4), "203.0.113.9:54321"),
            ("IPv6", header(0x21, 0x21, &v6("2001:db8::7")), "[2001:db8::7]:54321"),
            ("IPv4 in IPv6", header(0x21, 0x21, &v6("::ffff:203.0.113.9")), "203.0.113.9:54321"),
            ("an extension", header(0x21, 0x11, &[&V4[..], &noop].concat()), "203.0.113.9:54321"),
            ("an empty extension", header(0x21, 0x11, &[&V4[..], &extension(0xe0, &[])].concat()), "203.0.113.9:54321"),
            ("a checksum", with_checksum(), "203.0.113.9:54321"),
            ("LOCAL", header(0x20, 0x00, &[]), "-"),
            ("LOCAL with addresses", header(0x20, 0x11, &V4), "-"),
            ("LOCAL with anything", header(0x20, 0xff, &[9; 40]), "-"),
            ("an unspecified family", header(0x21, 0x00, &[]), "-"),
            ("an unspecified family with something", header(0x21, 0x00, &[1, 2, 3]), "-"),
            ("the longest", header(0x20, 0x00, &[0; LONGEST - FIXED]), "-"),
        ] {
            assert_eq!(verdict(&octets), Ok(client.to_owned()), "{what}");
        }
    }

    #[test]
    fn headers_that_are_refused() {
        let with = |extensions: &[u8]| header(0x21, 0x11, &[&V4[..], extensions].concat());
        let mut spoiled = with_checksum();
        spoiled[FIXED] ^= 1;
        for (what, octets, fault) in [
            ("version 1", header(0x11, 0x11, &V4), Fault::Version),
            ("version 3", header(0x31, 0x11, &V4), Fault::Version),
            ("command 2", header(0x22, 0x11, &V4), Fault::Command),
            ("command 15", header(0x2f, 0x11, &V4), Fault::Command),
            ("UDP over IPv4", header(0x21, 0x12, &V4), Fault::Datagram),
            ("UDP over IPv6", header(0x21, 0x22, &v6("::1")), Fault::Datagram),
            ("a Unix stream", header(0x21, 0x31, &[0; 216]), Fault::Unix),
            ("a Unix datagram", header(0x21, 0x32, &[0; 216]), Fault::Unix),
            ("a family without transport", header(0x21, 0x10, &V4), Fault::Family),
            ("a transport without family", header(0x21, 0x01, &V4), Fault::Family),
            ("family 4", header(0x21, 0x41, &V4), Fault::Family),
            ("transport 3", header(0x21, 0x13, &V4), Fault::Family),
            ("no room for IPv4", header(0x21, 0x11, &V4[..11]), Fault::TooShort),
            ("no room for IPv6", header(0x21, 0x21, &[0; 35]), Fault::TooShort),
            ("too long", header(0x20, 0x00, &[0; LONGEST - FIXED + 1]), Fault::TooLong),
            ("an extension's type alone", with(&[1]), Fault::Extension),
            ("half an extension's length", with(&[1, 0]), Fault::Extension),
            ("an extension beyond the end", with(&[1, 0, 3, 7, 7]), Fault::Extension),
            ("a checksum of three octets", with(&extension(CRC32C, &[0; 3])), Fault::Extension),
            (
                "two checksums",
                with(&[extension(CRC32C, &[0; 4]), extension(CRC32C, &[0; 4])].concat()),
                Fault::Extension,
            ),
            ("a wrong checksum", with(&extension(CRC32C, &[0; 4])), Fault::Checksum),
            ("an address that does not fit the checksum", spoiled, Fault::Checksum),
            ("text", b"PROXY TCP4 203.0.113.9 10.0.0.1 54321 443\r\n".to_vec(), Fault::Version1),
            ("text of the shortest form", b"PROXY UNKNOWN\r\n".to_vec(), Fault::Version1),
            ("TLS", vec![0x16, 3, 1, 2, 0, 1], Fault::Absent),
            ("HTTP/1", b"POST /predict HTTP/1.1\r\n".to_vec(), Fault::Absent),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Fault::Absent),
            ("line ends", b"\r\n\r\nGET".to_vec(), Fault::Absent),
        ] {
            assert_eq!(verdict(&octets), Err(fault), "{what}");
        }
    }

    #[test]
    fn a_fault_is_found_as_early_as_it_can_be_seen() {
        let long = header(0x20, 0x00, &[0; LONGEST]);
        assert_eq!(parse(&long[..FIXED]), Parsed::Fault(Fault::TooLong));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIX"), Parsed::Fault(Fault::Absent));
        assert_eq!(parse(b"\x16"), Parsed::Fault(Fault::Absent));
        assert_eq!(parse(b"PO"), Parsed::Fault(Fault::Absent));
    }

    #[test]
    fn what_is_needed_leads_to_the_end_of_the_header_and_not_beyond() {
        let octets = [with_checksum(), b"\x16\x03\x01".to_vec()].concat();
        let (mut have, mut steps) = (0, 0);
        let consumed = loop {
            match parse(&octets[..have]) {
                Parsed::Complete { consumed, .. } => break consumed,
                Parsed::Incomplete { needed } => have = needed,
                Parsed::Fault(fault) => panic!("{fault:?}"),
            }
            steps += 1;
        };
        assert_eq!((consumed, steps), (octets.len() - 3, 2));
    }

    #[test]
    fn the_checksum_is_the_one_that_others_compute() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
    }

    /// Octets that are headers, nearly headers, and something else.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(any::<u8>(), 0..80);
        let command = prop_oneof![4 => Just(0x21), 1 => Just(0x20), 1 => any::<u8>()];
        let family = prop_oneof![3 => Just(0x11), 3 => Just(0x21), 1 => any::<u8>()];
        let made = (command, family, body).prop_map(|(command, family, body)| header(command, family, &body));
        let spoiled = (Just(with_checksum()), 0..51_usize, any::<u8>()).prop_map(|(mut octets, at, with)| {
            let at = at.min(octets.len() - 1);
            octets[at] = with;
            octets
        });
        prop_oneof![made, spoiled, proptest::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(octets in octets(), behind in proptest::collection::vec(any::<u8>(), 0..20)) {
            let all = [octets, behind].concat();
            let whole = parse(&all);
            let mut settled = None;
            for length in 0..=all.len() {
                let now = parse(&all[..length]);
                if let Parsed::Incomplete { needed } = now {
                    prop_assert!(needed > length && needed <= LONGEST);
                    prop_assert_eq!(settled, None, "a verdict was taken back");
                } else {
                    prop_assert_eq!(*settled.get_or_insert(now), now);
                }
                if let Parsed::Complete { consumed, .. } = now {
                    prop_assert!(consumed <= length);
                }
            }
            prop_assert_eq!(settled.unwrap_or(whole), whole);
        }

        #[test]
        fn what_is_needed_is_never_beyond_the_end(octets in octets()) {
            let Parsed::Complete { consumed, .. } = parse(&octets) else { return Ok(()) };
            for length in 0..consumed {
                match parse(&octets[..length]) {
                    Parsed::Incomplete { needed } => prop_assert!(needed <= consumed),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
