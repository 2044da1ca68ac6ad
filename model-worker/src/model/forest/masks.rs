//! Trees of at most 64 leaves as words of reachable leaves.

use super::Leaves;
use super::engine::{Packing, place};
use super::tree::{Step, Tree, Ways, index};

const MOST_LEAVES: usize = 64;

/// The tables of all trees that take this form.
#[derive(Debug)]
pub(super) struct Masks {
    trees: usize,
    /// By feature, then by rank, then by tree.
    words: Vec<Vec<u64>>,
    /// Where each tree's leaves begin in `leaves`.
    begins: Vec<u32>,
    /// Left to right: a leaf's packed votes, or the number of its row.
    leaves: Vec<u64>,
    packed: bool,
}

impl Masks {
    /// The masks of as many trees as have few enough leaves, and the others.
    pub(super) fn build<'a>(
        trees: &[&'a Tree],
        thresholds: &[Vec<f64>],
        leaves: &Leaves,
        packing: Option<&Packing>,
        most: usize,
    ) -> (Option<Self>, Vec<&'a Tree>) {
        let mut few: Vec<Ways> = Vec::new();
        let mut many = Vec::new();
        for tree in trees {
            match tree.ways(MOST_LEAVES) {
                Some(ways) => few.push(ways),
                None => many.push(*tree),
            }
        }
        let ranks: usize = thresholds.iter().map(|list| list.len() + 1).sum();
        if few.is_empty() || ranks.saturating_mul(few.len()) > most {
            return (None, trees.to_vec());
        }
        let count = few.len();
        let mut words: Vec<Vec<u64>> = thresholds.iter().map(|list| vec![u64::MAX; (list.len() + 1) * count]).collect();
        let mut begins = Vec::new();
        let mut values = Vec::new();
        for (number, ways) in few.iter().enumerate() {
            begins.push(u32::try_from(values.len()).unwrap_or(u32::MAX));
            for (bit, (row, way)) in ways.iter().enumerate() {
                values.push(packing.map_or(u64::from(*row), |packing| packing.pack(leaves.row(index(*row)))));
                // Only a split that sends the row right takes leaves away: those on its left.
                for (step, went_left) in way {
                    if let (Step::Split { feature, threshold, .. }, true) = (step, went_left)
                        && let Some(list) = thresholds.get(usize::from(*feature))
                        && let Some(words) = words.get_mut(usize::from(*feature))
                    {
                        // Ranks above the threshold's place go right.
                        let first = (place(list, *threshold) + 1) * count + number;
                        for word in words.iter_mut().skip(first).step_by(count) {
                            *word &= !(1 << bit);
                        }
                    }
                }
            }
        }
        let words =
            words.into_iter().zip(thresholds).map(|(words, list)| if list.is_empty() { Vec::new() } else { words });
        let masks = Self { trees: count, words: words.collect(), begins, leaves: values, packed: packing.is_some() };
        (Some(masks), many)
    }

    pub(super) fn trees(&self) -> usize {
        self.trees
    }

    /// The packed votes; where votes are not packed, adds the leaves' rows to `sums`.
    pub(super) fn add(&self, ranks: &[usize], leaves: &Leaves, scratch: &mut Vec<u64>, sums: &mut [f64]) -> u64 {
        scratch.clear();
        scratch.resize(self.trees, u64::MAX);
        for (rank, words) in ranks.iter().zip(&self.words) {
            let row = words.get(rank * self.trees..(rank + 1) * self.trees).unwrap_or_default();
            for (mask, word) in scratch.iter_mut().zip(row) {
                *mask &= word;
            }
        }
        let mut packed = 0_u64;
        for (mask, begin) in scratch.iter().zip(&self.begins) {
            let leaf = self.leaves.get(index(begin + mask.trailing_zeros())).copied().unwrap_or(0);
            if self.packed {
                packed = packed.wrapping_add(leaf);
            } else {
                leaves.add(usize::try_from(leaf).unwrap_or(usize::MAX), sums);
            }
        }
        packed
    }
}
