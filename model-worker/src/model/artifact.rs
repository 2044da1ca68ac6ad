//! The file that holds a model: `MWRK`, format version (u16), length of the header (u32), the header (JSON, a
//! [`Card`]), the payload (its meaning is the engine's), SHA-256 over all before it. Numbers are little-endian.
//!
//! The reader trusts nothing: size first, then the checksum, then everything else with bounds. The checksum finds
//! damage, not malice; whoever may write the model directory decides what the worker answers.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::digest;

use super::card::Card;
use crate::failure::{Exit, Failure};

/// The format version that is written and read. Version 1 knew votes of one class only.
pub const FORMAT: u16 = 2;
/// Largest file that is read: a model far above this was made by something else.
pub const MAX_BYTES: usize = 16 << 20;

const MAGIC: &[u8; 4] = b"MWRK";
const MAX_HEADER: usize = 1 << 20;
const DIGEST: usize = 32;
const NO_FILE: &str = "it is no regular file";

/// Why bytes are no usable artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// More than [`MAX_BYTES`].
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Another kind of file.
    #[error("it does not begin as a model artifact does")]
    NotAnArtifact,
    /// Ends too early to hold what it must.
    #[error("it is truncated")]
    Truncated,
    /// A format that this worker does not know.
    #[error("its format version is {0}, and this worker reads version {FORMAT}")]
    Format(u16),
    /// Damaged, cut short or edited.
    #[error("its checksum does not match: it was damaged, truncated or altered")]
    Checksum,
    /// The header is no card.
    #[error("its header is not usable: {0}")]
    Header(String),
    /// The payload breaks a rule of its engine.
    #[error("its payload is not usable: {0}")]
    Payload(&'static str),
    /// It loads, but does not answer as it did when it was trained.
    #[error("golden row {0} is not predicted as it was at training time")]
    Golden(usize),
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of an artifact; the same card and payload always give the same bytes.
///
/// # Errors
///
/// When the card breaks its own rules, or is too large.
pub fn encode(card: &Card, payload: &[u8]) -> Result<Vec<u8>, ArtifactError> {
    card.check().map_err(|error| ArtifactError::Header(error.to_owned()))?;
    let header = serde_json::to_vec(card).map_err(|error| ArtifactError::Header(error.to_string()))?;
    let length = u32::try_from(header.len()).map_err(|_| ArtifactError::TooLarge)?;
    let mut bytes = Vec::with_capacity(header.len() + payload.len() + 64);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(payload);
    let sum = digest::digest(&digest::SHA256, &bytes);
    bytes.extend_from_slice(sum.as_ref());
    if header.len() > MAX_HEADER || bytes.len() > MAX_BYTES { Err(ArtifactError::TooLarge) } else { Ok(bytes) }
}

/// The card and payload in `bytes`.
///
/// # Errors
///
/// The first rule that the bytes break.
pub fn decode(bytes: &[u8]) -> Result<(Card, &[u8]), ArtifactError> {
    if bytes.len() > MAX_BYTES {
        return Err(ArtifactError::TooLarge);
    }
    if !bytes.starts_with(MAGIC) {
        let short = bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes);
        return Err(if short { ArtifactError::Truncated } else { ArtifactError::NotAnArtifact });
    }
    // Before the checksum, because a later format may place or compute it differently.
    let version = bytes.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    match version.ok_or(ArtifactError::Truncated)? {
        FORMAT => {}
        other => return Err(ArtifactError::Format(other)),
    }
    let (content, sum) =
        bytes.len().checked_sub(DIGEST).and_then(|at| bytes.split_at_checked(at)).ok_or(ArtifactError::Truncated)?;
    if digest::digest(&digest::SHA256, content).as_ref() != sum {
        return Err(ArtifactError::Checksum);
    }
    let mut reader = Reader(content.get(6..).ok_or(ArtifactError::Truncated)?);
    let length = reader.u32().and_then(|length| usize::try_from(length).ok()).ok_or(ArtifactError::Truncated)?;
    if length > MAX_HEADER {
        return Err(ArtifactError::TooLarge);
    }
    let header = reader.take(length).ok_or(ArtifactError::Truncated)?;
    let card: Card = serde_json::from_slice(header).map_err(|error| ArtifactError::Header(error.to_string()))?;
    card.check().map_err(|error| ArtifactError::Header(error.to_owned()))?;
    Ok((card, reader.0))
}

/// Reads numbers from the front of a slice.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes, if there are so many.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next unsigned 16-bit number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next unsigned 32-bit number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next 64-bit floating point number.
    pub fn f64(&mut self) -> Option<f64> {
        self.array().map(f64::from_le_bytes)
    }
}

/// Reads a file that should be an artifact, never more than [`MAX_BYTES`] and one byte of it.
///
/// # Errors
///
/// Exit code 66 when it is missing, 74 when reading fails midway or it is no regular file: a pipe's end may never come.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failure = |error: io::Error| Failure::reading(format!("cannot read the model {}", path.display()), &error);
    if !std::fs::metadata(path).map_err(failure)?.is_file() {
        return Err(failure(io::Error::other(NO_FILE)));
    }
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failure)?.take(limit).read_to_end(&mut bytes).map_err(failure)?;
    Ok(bytes)
}

/// Says that the file at `path` is no usable artifact: exit code 65.
#[must_use]
pub fn unusable(path: &Path, error: &ArtifactError) -> Failure {
    Failure::new(
        Exit::BadData,
        format!("the model {} cannot be used", path.display()),
        error.to_string(),
        "copy it again from where it was made, or write a new one with `model-worker train`",
    )
}

/// Writes a file so that its name never holds half of it, not even after a power failure.
///
/// # Errors
///
/// Exit code 73 with the system's reason.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let put = || -> io::Result<()> {
        // A device or a pipe would be replaced.
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::other(NO_FILE));
        }
        let mut file = tempfile::Builder::new()
            .prefix(".model-")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(parent)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        std::fs::File::open(parent)?.sync_all()
    };
    put().map_err(|error| {
        Failure::new(
            Exit::CannotCreate,
            format!("cannot write {}", path.display()),
            error.to_string(),
            "check that the directory exists and may be written",
        )
    })
}
