//! A group of trees, added up over the ranks of at most three features.

use std::collections::BTreeSet;

use super::Leaves;
use super::engine::{Packing, place, thresholds};
use super::tree::{Step, Tree, index};

/// One axis: a feature, and for each of its ranks in the whole forest what it adds to a cell's number.
#[derive(Debug)]
struct Axis {
    feature: usize,
    offsets: Vec<u32>,
}

/// The table of one group.
#[derive(Debug)]
pub(super) struct Grid {
    axes: Vec<Axis>,
    cells: Vec<u64>,
}

/// A box of ranks, both ends within.
type Region = [(usize, usize); 3];

impl Grid {
    /// The table of `trees`, which ask no feature outside `set`; `None` when it would have more than `most` cells.
    pub(super) fn build(
        trees: &[&Tree],
        set: &BTreeSet<u16>,
        all: &[Vec<f64>],
        leaves: &Leaves,
        packing: &Packing,
        most: usize,
    ) -> Option<Self> {
        let lists = thresholds(trees.iter().copied(), all.len());
        let features: Vec<usize> = set.iter().map(|feature| usize::from(*feature)).collect();
        let mut sizes = [1_usize; 3];
        for (size, feature) in sizes.iter_mut().zip(&features) {
            *size = lists.get(*feature)?.len() + 1;
        }
        let cells = sizes.iter().try_fold(1_usize, |cells, size| cells.checked_mul(*size))?;
        if cells > most {
            return None;
        }
        let strides = [sizes[1] * sizes[2], sizes[2], 1];
        let mut grid = vec![0_u64; cells];
        for tree in trees {
            fill(tree, &features, &lists, sizes, strides, &mut grid, |row| packing.pack(leaves.row(index(row))))?;
        }
        // Until here a cell holds what changes from its neighbours; added up along each axis it holds the votes.
        for (size, stride) in sizes.into_iter().zip(strides) {
            for at in 0..cells {
                if (at / stride) % size > 0 {
                    let before = grid.get(at - stride).copied()?;
                    let cell = grid.get_mut(at)?;
                    *cell = cell.wrapping_add(before);
                }
            }
        }
        let mut axes = Vec::new();
        for (feature, stride) in features.into_iter().zip(strides) {
            let (own, whole) = (lists.get(feature)?, all.get(feature)?);
            // A value of rank r lies behind r thresholds of the whole; how many of them are the group's own?
            let offsets = (0..=whole.len()).map(|rank| {
                let behind = rank.checked_sub(1).and_then(|last| whole.get(last));
                let own = behind.map_or(0, |last| own.partition_point(|threshold| threshold <= last));
                u32::try_from(own * stride).ok()
            });
            axes.push(Axis { feature, offsets: offsets.collect::<Option<_>>()? });
        }
        Some(Self { axes, cells: grid })
    }

    pub(super) fn cells(&self) -> usize {
        self.cells.len()
    }

    /// The packed votes of all trees of the group.
    pub(super) fn look_up(&self, ranks: &[usize]) -> u64 {
        let cell: u32 = self
            .axes
            .iter()
            .map(|axis| ranks.get(axis.feature).and_then(|rank| axis.offsets.get(*rank)).copied().unwrap_or(0))
            .sum();
        self.cells.get(index(cell)).copied().unwrap_or(0)
    }
}

/// Enters a tree's leaves, each a box of ranks, as changes at the box's corners.
fn fill(
    tree: &Tree,
    features: &[usize],
    lists: &[Vec<f64>],
    sizes: [usize; 3],
    strides: [usize; 3],
    grid: &mut [u64],
    pack: impl Fn(u32) -> u64,
) -> Option<()> {
    let whole: Region = sizes.map(|size| (0, size - 1));
    let mut open = vec![(0_u32, whole)];
    // A well-formed tree has each node once; a hostile one may share children.
    let mut steps = tree.0.len();
    while let Some((at, region)) = open.pop() {
        steps = steps.checked_sub(1)?;
        match tree.0.get(index(at))?.step() {
            Step::Leaf(row) => enter(grid, region, sizes, strides, pack(row)),
            Step::Split { feature, threshold, left } => {
                let feature = usize::from(feature);
                let axis = features.iter().position(|of| *of == feature)?;
                let cut = place(lists.get(feature)?, threshold);
                let (mut low, mut high) = (region, region);
                low.get_mut(axis)?.1 = low.get(axis)?.1.min(cut);
                high.get_mut(axis)?.0 = high.get(axis)?.0.max(cut + 1);
                for (child, region) in [(left, low), (left + 1, high)] {
                    if region.iter().all(|(from, to)| from <= to) {
                        open.push((child, region));
                    }
                }
            }
        }
    }
    Some(())
}

fn enter(grid: &mut [u64], region: Region, sizes: [usize; 3], strides: [usize; 3], votes: u64) {
    for corner in 0..8_u32 {
        let mut at = 0;
        let mut inside = true;
        for (axis, (((from, to), size), stride)) in region.into_iter().zip(sizes).zip(strides).enumerate() {
            let place = if corner & (1 << axis) == 0 { from } else { to + 1 };
            inside &= place < size;
            at += place * stride;
        }
        if let Some(cell) = grid.get_mut(at).filter(|_| inside) {
            *cell = if corner.count_ones() % 2 == 0 { cell.wrapping_add(votes) } else { cell.wrapping_sub(votes) };
        }
    }
}
