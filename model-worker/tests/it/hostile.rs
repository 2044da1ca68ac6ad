//! The properties of `fuzz/`, over its seeds and over copies of them with octets changed, cut, doubled and mixed.

use std::path::Path;

use model_worker::train::random::Random;

#[path = "../../fuzz/properties/artifact.rs"]
mod artifact;
#[path = "../../fuzz/properties/infer.rs"]
mod infer;

fn damaged(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut octets = seed.to_vec();
    for _ in 0..=random.below(3) {
        let (at, length) = (random.below(octets.len().max(1)), random.below(9));
        let end = (at + length).min(octets.len());
        match random.below(5) {
            0 => octets.truncate(at),
            1 => drop(octets.drain(at..end)),
            2 => {
                let copy = octets[at..end].to_vec();
                octets.splice(at..at, copy);
            }
            3 => octets.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= 1 << (length % 8)),
            _ => {
                let other = u8::try_from(random.below(256)).expect("an octet");
                octets.iter_mut().skip(at).take(1).for_each(|octet| *octet = other);
            }
        }
    }
    octets
}

fn hold(target: &str, copies: u64, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).expect("seeds") {
        let seed = std::fs::read(entry.expect("a seed").path()).expect("octets");
        check(&seed);
        for copy in 0..copies {
            check(&damaged(&seed, &mut Random::new(copy, count)));
        }
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn artifacts_are_refused_or_predict() {
    hold("artifact", 3000, artifact::check);
}

#[test]
fn requests_are_refused_or_answered() {
    hold("infer", 1500, infer::check);
    hold("predict", 1500, infer::check_predict);
}
