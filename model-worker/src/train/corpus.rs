//! The rated texts of Hutto & Gilbert (ICWSM 2014), as the source distribution of vaderSentiment 3.3.2 holds them.
//!
//! Takes that `.tar.gz`, the `.tar.gz` inside it, or a directory with the four files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use super::TrainError;

/// What the texts are, and the file that holds each kind.
pub const DOMAINS: [(&str, &str); 4] = [
    ("amazon", "amazonReviewSnippets_GroundTruth.txt"),
    ("movies", "movieReviewSnippets_GroundTruth.txt"),
    ("nyt", "nytEditorialSnippets_GroundTruth.txt"),
    ("tweets", "tweets_GroundTruth.txt"),
];

const INNER: &str = "hutto_ICWSM_2014.tar.gz";

/// Far above the real files' sizes: an archive that unpacks to more is not the one that is meant.
const MAX_FILE: u64 = 16 << 20;

/// One rated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Index into [`DOMAINS`].
    pub domain: usize,
    /// The review or article that it was taken from: parts of one must not be in training and test both.
    pub group: u32,
    /// Mean of the human ratings, -4 to 4.
    pub rating: f64,
    /// The text.
    pub text: String,
}

/// The four files' contents, in the order of [`DOMAINS`].
type Files = [Option<Vec<u8>>; 4];

fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unpack(archive: &mut dyn Read, files: &mut Files, inner_allowed: bool) -> Result<(), TrainError> {
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if inner_allowed && name == INNER {
            unpack(&mut entry, files, false)?;
        } else if let Some((_, file)) = DOMAINS.iter().zip(files.iter_mut()).find(|((_, wanted), _)| *wanted == name) {
            *file = Some(read_bounded(entry)?);
        }
    }
    Ok(())
}

/// Reads the texts, and returns them with the SHA-256 over the four files one after the other.
///
/// # Errors
///
/// When the path cannot be read, lacks one of the four files, or a line is not `id <tab> rating <tab> text`.
pub fn read(path: &Path) -> Result<(Vec<Text>, String), TrainError> {
    let mut files = Files::default();
    if path.is_dir() {
        for ((_, name), file) in DOMAINS.iter().zip(&mut files) {
            *file = Some(read_bounded(File::open(path.join(name))?)?);
        }
    } else {
        unpack(&mut BufReader::new(File::open(path)?), &mut files, true)?;
    }
    let mut texts = Vec::new();
    let mut all = Vec::new();
    for (domain, (file, (_, name))) in files.into_iter().zip(DOMAINS).enumerate() {
        let bytes = file.ok_or_else(|| TrainError::Data(format!("{name} is not in it")))?;
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            if !line.trim().is_empty() {
                let text = parse(domain, line).ok_or_else(|| {
                    TrainError::Data(format!("{name}, line {}: not an id, a rating and a text", number + 1))
                })?;
                texts.push(text);
            }
        }
        all.extend(bytes);
    }
    Ok((texts, crate::model::artifact::sha256_hex(&all)))
}

fn parse(domain: usize, line: &str) -> Option<Text> {
    let (id, rest) = line.split_once('\t')?;
    let (rating, text) = rest.split_once('\t')?;
    let group = id.split('_').next()?.trim().trim_start_matches('\u{feff}').parse().ok()?;
    let rating: f64 = rating.trim().parse().ok()?;
    rating.is_finite().then(|| Text { domain, group, rating, text: text.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_review() {
        let text = parse(2, "17_3\t-0.5\tNot \tgood").expect("well formed");
        assert_eq!(text, Text { domain: 2, group: 17, rating: -0.5, text: "Not \tgood".to_owned() });
        for line in ["", "1", "1\t2", "x\t1\ttext", "1\tNaN\ttext", "1\tgood\ttext"] {
            assert_eq!(parse(0, line), None, "{line:?}");
        }
    }
}
