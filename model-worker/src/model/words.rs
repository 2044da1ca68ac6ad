//! From a text to what the sentiment model weighs: buckets of hashed words and word pairs, and the verdict of the
//! VADER rules (Hutto & Gilbert, ICWSM 2014).
//!
//! Both are linear in the text's length, and neither depends on anything but the text.

use std::collections::BTreeSet;
use std::iter;

use vader_sentimental::SentimentIntensityAnalyzer;

/// Longest text, in bytes of UTF-8.
pub const MAX_TEXT: usize = 8192;

/// Words that are given to the VADER rules at once. They are meant for sentences, and where a text holds idioms they
/// look at every word for each word, so a long text is judged piece by piece.
const PIECE: usize = 32;

const SEED: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a.
fn hash(start: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(start, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The text's words in lower case: runs of letters, digits and apostrophes, and each other visible character alone.
fn tokens(text: &str) -> Vec<u64> {
    let lower = text.to_lowercase();
    let mut hashes = Vec::new();
    let mut word = None;
    for character in lower.chars() {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).bytes();
        if character.is_alphanumeric() || character == '\'' {
            word = Some(hash(word.unwrap_or(SEED), bytes));
        } else {
            hashes.extend(word.take());
            if !character.is_whitespace() && !character.is_control() {
                hashes.push(hash(SEED, bytes));
            }
        }
    }
    hashes.extend(word);
    hashes
}

/// The different buckets, of 2^`bits`, that the text's words and word pairs fall into, in order.
#[must_use]
pub fn buckets(text: &str, bits: u8) -> Vec<u32> {
    let words = tokens(text);
    let pairs = words
        .iter()
        .zip(words.iter().skip(1))
        .map(|(first, second)| hash(*first, iter::once(b' ').chain(second.to_le_bytes())));
    let different: BTreeSet<u32> = words
        .iter()
        .copied()
        .chain(pairs)
        .filter_map(|hash| {
            // FNV's low bits mix poorly: fold the high half in before taking them.
            let mixed =
                (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - u32::from(bits.clamp(1, 31)));
            u32::try_from(mixed).ok()
        })
        .collect();
    different.into_iter().collect()
}

/// How much one of a text's `count` buckets says about it: the square root keeps long texts from being certain of
/// everything, and the number added, as if each text held so many words that say nothing, keeps short ones from it.
#[must_use]
pub fn share(count: usize) -> f64 {
    1.0 / (f64::from(u32::try_from(count).unwrap_or(u32::MAX)) + 20.0).sqrt()
}

/// The VADER rules' verdict: compound (-1 to 1), and the shares of positive and of negative words (0 to 1).
#[must_use]
pub fn rules(text: &str) -> [f64; 3] {
    let analyzer = SentimentIntensityAnalyzer::new();
    let expanded = analyzer.append_emoji_descriptions(text);
    let words: Vec<&str> = expanded.split_whitespace().collect();
    let mut sums = [0.0; 3];
    for piece in words.chunks(PIECE) {
        let verdict = analyzer.polarity_scores(&piece.join(" "));
        let weight = piece.iter().fold(0.0, |count, _| count + 1.0);
        for (sum, number) in sums.iter_mut().zip([verdict.compound, verdict.pos, verdict.neg]) {
            *sum += weight * number;
        }
    }
    let count = words.iter().fold(0.0, |count, _| count + 1.0_f64).max(1.0);
    // The rules add up boosters in the order of a randomly seeded map; rounding hides the last digit's wavering.
    sums.map(|sum| if sum.is_finite() { (sum / count * 65_536.0).round() / 65_536.0 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_ignore_case_and_spacing_but_not_order() {
        assert_eq!(buckets("Not  good!", 20), buckets("not good!", 20));
        assert_ne!(buckets("good, not bad", 20), buckets("bad, not good", 20));
        assert_eq!(buckets("good good good", 20).len(), 2);
        assert!(buckets(" \u{0} \n", 20).is_empty());
        assert!(buckets(&"word pair ".repeat(800), 8).iter().all(|bucket| *bucket < 256));
    }

    #[test]
    fn rules_know_a_sign() {
        assert!(rules("what a great movie")[0] > 0.3);
        assert!(rules("what a terrible movie")[0] < -0.3);
        assert!(rules("😀")[0] > 0.0);
        assert!(rules("").iter().all(|number| number.abs() < f64::EPSILON));
    }

    #[test]
    fn strange_texts_do_no_harm() {
        for text in ["\u{200d}\u{fe0f}", "!?!?!?", "but but but", "kind of", "\u{0}", "never so", "a b c", "'", "ß ﬁ İ"]
        {
            assert!(rules(text).iter().all(|number| number.is_finite()), "{text:?}");
            let _ = buckets(text, 17);
        }
        let long = "😀the shit bad ass so ".repeat(8192 / 24);
        assert!(rules(&long).iter().all(|number| number.is_finite()));
    }
}
