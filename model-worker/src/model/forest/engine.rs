//! The forest made fast: compiled once at load, so that a row costs a few look-ups instead of hundreds of walks.
//!
//! Every threshold that a feature is compared with is sorted once; a value then is its *rank* among them, and two
//! values of equal rank are the same to the forest. Each tree goes to the first form that it fits:
//!
//! 1. **Grids.** Trees that ask at most three features are added up, group by group, into one table over the ranks of
//!    these features: all of a group's trees cost one look-up. Only votes are added so, as whole numbers, exactly.
//! 2. **Masks** (Lucchese and others, `QuickScorer`, SIGIR 2015). For each feature and rank, one word for each tree with
//!    a bit for each leaf that can still be reached; the words of a row's ranks, and'ed, leave the leaf as lowest bit.
//! 3. **Walks**, for what is left: trees with more than 64 leaves, or tables that would be larger than a bound.

use std::collections::BTreeSet;

use super::tree::{Rule, Step, Tree, index};
use super::{Leaves, grid::Grid, masks::Masks};

/// Most cells of all grids together: 8 bytes each.
const MOST_CELLS: usize = 1 << 17;
/// Most words of the masks: 8 bytes each.
const MOST_WORDS: usize = 1 << 19;
/// A smaller group is not worth a table.
const LEAST_TREES: usize = 3;

/// How whole votes of several classes are added as one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packing {
    bits: u32,
    classes: u32,
}

impl Packing {
    /// A packing for the votes of so many trees, if a word has room.
    fn new(trees: usize, leaves: &Leaves) -> Option<Self> {
        let classes = u32::try_from(leaves.width()).ok()?;
        let bits = usize::BITS - trees.leading_zeros();
        (leaves.are_votes() && bits.checked_mul(classes)? <= u64::BITS).then_some(Self { bits, classes })
    }

    /// One leaf's votes.
    pub(super) fn pack(&self, votes: &[f64]) -> u64 {
        (0..self.classes)
            .zip(votes)
            .fold(0, |word, (class, vote)| word | (u64::from(*vote > 0.0) << (class * self.bits)))
    }

    fn unpack(&self, word: u64, sums: &mut [f64]) {
        let mask = (1_u64 << self.bits) - 1;
        for (class, sum) in (0..self.classes).zip(sums) {
            *sum += f64::from(u32::try_from((word >> (class * self.bits)) & mask).unwrap_or(0));
        }
    }
}

/// What one prediction needs room for; kept from row to row.
#[derive(Debug, Default, Clone)]
pub struct Scratch {
    row: Vec<f64>,
    ranks: Vec<usize>,
    masks: Vec<u64>,
}

/// A compiled forest.
#[derive(Debug)]
pub struct Engine {
    rule: Rule,
    /// By feature: each threshold once, in order.
    thresholds: Vec<Vec<f64>>,
    packing: Option<Packing>,
    grids: Vec<Grid>,
    masks: Option<Masks>,
    walked: Vec<Tree>,
}

/// Every threshold once, in order, for each of the features.
pub(super) fn thresholds<'a>(trees: impl Iterator<Item = &'a Tree>, features: usize) -> Vec<Vec<f64>> {
    let mut thresholds = vec![Vec::new(); features];
    for node in trees.flat_map(|tree| &tree.0) {
        if let Step::Split { feature, threshold, .. } = node.step()
            && let Some(list) = thresholds.get_mut(usize::from(feature))
        {
            // -0 and 0 are one threshold.
            list.push(threshold + 0.0);
        }
    }
    for list in &mut thresholds {
        list.sort_unstable_by(f64::total_cmp);
        list.dedup();
    }
    thresholds
}

/// The place of a threshold of its tree in the sorted list.
pub(super) fn place(list: &[f64], threshold: f64) -> usize {
    list.partition_point(|other| *other < threshold)
}

fn asked(tree: &Tree) -> BTreeSet<u16> {
    tree.0
        .iter()
        .filter_map(|node| if let Step::Split { feature, .. } = node.step() { Some(feature) } else { None })
        .collect()
}

/// The features of each group, and the numbers of its trees.
type Group = (BTreeSet<u16>, Vec<usize>);

/// Trees that ask at most three features, those of larger groups first; a tree joins the first group that asks all
/// that it asks.
fn groups(trees: &[Tree]) -> Vec<Group> {
    let mut small: Vec<(BTreeSet<u16>, usize)> =
        trees.iter().enumerate().map(|(at, tree)| (asked(tree), at)).filter(|(set, _)| set.len() <= 3).collect();
    small.sort_by_key(|(set, at)| (std::cmp::Reverse(set.len()), *at));
    let mut groups: Vec<Group> = Vec::new();
    for (set, at) in small {
        if let Some((_, members)) = groups.iter_mut().find(|(of, _)| of.is_superset(&set)) {
            members.push(at);
        } else if groups.len() < 64 {
            groups.push((set, vec![at]));
        }
    }
    groups.retain(|(_, members)| members.len() >= LEAST_TREES);
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    groups
}

impl Engine {
    /// Compiles trees that have been checked.
    #[must_use]
    pub fn compile(trees: &[Tree], leaves: &Leaves, features: usize, rule: Rule) -> Self {
        let all = thresholds(trees.iter(), features);
        let packing = Packing::new(trees.len(), leaves);
        let mut left: Vec<Option<&Tree>> = trees.iter().map(Some).collect();
        let mut grids = Vec::new();
        if let Some(packing) = &packing {
            let mut room = MOST_CELLS;
            for (set, members) in groups(trees) {
                let group: Vec<&Tree> = members.iter().filter_map(|at| trees.get(*at)).collect();
                if let Some(grid) = Grid::build(&group, &set, &all, leaves, packing, room) {
                    room -= grid.cells();
                    grids.push(grid);
                    for at in members {
                        if let Some(tree) = left.get_mut(at) {
                            *tree = None;
                        }
                    }
                }
            }
        }
        let left: Vec<&Tree> = left.into_iter().flatten().collect();
        let (masks, walked) = Masks::build(&left, &all, leaves, packing.as_ref(), MOST_WORDS);
        Self { rule, thresholds: all, packing, grids, masks, walked: walked.into_iter().cloned().collect() }
    }

    /// How many grids there are, trees that are masks, and trees that are walked.
    #[must_use]
    pub fn forms(&self) -> (usize, usize, usize) {
        (self.grids.len(), self.masks.as_ref().map_or(0, Masks::trees), self.walked.len())
    }

    /// Adds every tree's leaf to `sums`, one number for each class.
    pub fn add(&self, row: &[f64], leaves: &Leaves, scratch: &mut Scratch, sums: &mut [f64]) {
        let Scratch { row: rounded, ranks, masks } = scratch;
        ranks.clear();
        for (value, list) in row.iter().zip(&self.thresholds) {
            let value = self.rule.rounded(*value);
            ranks.push(list.partition_point(|threshold| !self.rule.goes_left(value, *threshold)));
        }
        let mut word = self.grids.iter().fold(0_u64, |word, grid| word.wrapping_add(grid.look_up(ranks)));
        if let Some(table) = &self.masks {
            word = word.wrapping_add(table.add(ranks, leaves, masks, sums));
        }
        if let Some(packing) = &self.packing {
            packing.unpack(word, sums);
        }
        if !self.walked.is_empty() {
            rounded.clear();
            rounded.extend(row.iter().map(|value| self.rule.rounded(*value)));
            for tree in &self.walked {
                leaves.add(index(tree.walk(rounded, self.rule)), sums);
            }
        }
    }
}
