//! As much of HTTP/1.1 heads as the load, the worker and the checks need to read.

/// The length of a head with its empty line, if all of it is there.
pub(crate) fn head_length(octets: &[u8]) -> Option<usize> {
    octets.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of the first field of that name, which is lower case.
pub(crate) fn field<'head>(head: &'head [u8], name: &str) -> Option<&'head str> {
    head.split(|octet| *octet == b'\n').skip(1).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| str::from_utf8(value).ok().map(str::trim))?
    })
}

/// The status of an answer's head; 0 if it has none.
pub(crate) fn status(head: &[u8]) -> u16 {
    head.get(9..12).and_then(|digits| str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
