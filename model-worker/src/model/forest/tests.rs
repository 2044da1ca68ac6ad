//! Every form of the engine against the plain walk, on random forests and on rows that lie on thresholds.

use super::*;
use crate::train::random::Random;

fn number(random: &mut Random, below: usize) -> u32 {
    u32::try_from(random.below(below)).expect("small")
}

/// A tree with about `splits` splits on the given features, thresholds on a coarse grid so that ties are common.
fn tree(random: &mut Random, features: &[u16], splits: usize, leaves: usize) -> Tree {
    let mut steps = vec![None];
    let mut open = vec![0_usize];
    for _ in 0..splits {
        let at = open.swap_remove(random.below(open.len()));
        let left = steps.len();
        steps.extend([None, None]);
        open.extend([left, left + 1]);
        let threshold = f64::from(number(random, 40)) / 10.0 - 1.0;
        let feature = features[random.below(features.len())];
        steps[at] = Some(Step::Split { feature, threshold, left: u32::try_from(left).expect("small") });
    }
    let leaf = |step: Option<Step>| Node::new(step.unwrap_or_else(|| Step::Leaf(number(random, leaves))));
    Tree(steps.into_iter().map(leaf).collect())
}

fn compiled(trees: &Trees, features: usize) -> Engine {
    Engine::compile(&trees.trees, &trees.leaves, features, trees.rule)
}

fn agree(trees: &Trees, features: usize, random: &mut Random) -> (usize, usize, usize) {
    trees.trees.iter().for_each(|tree| assert_eq!(tree.check(features, trees.leaves.rows()), Ok(())));
    let engine = compiled(trees, features);
    let mut scratch = Scratch::default();
    for _ in 0..400 {
        let row: Vec<f64> = (0..features).map(|_| f64::from(number(random, 100)) / 20.0 - 1.5).collect();
        let mut sums = vec![0.0; trees.leaves.width()];
        engine.add(&row, &trees.leaves, &mut scratch, &mut sums);
        share(&mut sums);
        for (fast, plain) in sums.iter().zip(trees.walk(&row)) {
            assert!((fast - plain).abs() < 1e-12, "{row:?}: {fast} {plain}");
        }
    }
    engine.forms()
}

#[test]
fn every_form_agrees_with_the_walk() {
    let mut forms = [0, 0, 0];
    for seed in 0..60 {
        let mut random = Random::new(seed, 0);
        let (features, classes) = (1 + random.below(8), 2 + random.below(4));
        let rule = if seed % 2 == 0 { Rule::Below } else { Rule::AtMostSingle };
        let leaves = if seed % 3 == 0 {
            let values = (0..7 * classes).map(|_| f64::from(number(&mut random, 1000)) / 1000.0).collect();
            Leaves::new(classes, values)
        } else {
            Leaves::votes(classes)
        };
        let count = 1 + random.below(60);
        let trees: Vec<Tree> = (0..count)
            .map(|_| {
                let mut asked: Vec<u16> = (0..).take(features).collect();
                random.shuffle(&mut asked);
                asked.truncate(1 + random.below(5));
                let splits = [0, 1, 4, 20, 90][random.below(5)];
                tree(&mut random, &asked, splits, leaves.rows())
            })
            .collect();
        let (grids, masks, walks) = agree(&Trees { rule, leaves, trees }, features, &mut random);
        forms = [forms[0] + grids, forms[1] + masks, forms[2] + walks];
    }
    assert!(forms.iter().all(|form| *form > 20), "each form was tried: {forms:?}");
}

#[test]
fn trees_survive_writing_and_reading() {
    let mut random = Random::new(1, 1);
    let trees = (0..5).map(|splits| tree(&mut random, &[0, 1], splits, 4)).collect();
    let trees = Trees { rule: Rule::AtMostSingle, leaves: Leaves::votes(3), trees };
    let payload = trees.encode().expect("small");
    assert_eq!(Trees::decode(&payload, 3), Ok(trees));
    for length in 0..payload.len() {
        assert!(Trees::decode(&payload[..length], 3).is_err(), "{length}");
    }
    assert!(Trees::decode(&[payload.as_slice(), &[0]].concat(), 3).is_err());
}

#[test]
fn no_votes_at_all_leave_every_class_equal() {
    let nobody = Tree(vec![Node::new(Step::Leaf(2))]);
    let trees = Trees { rule: Rule::Below, leaves: Leaves::votes(2), trees: vec![nobody] };
    assert_eq!(trees.walk(&[0.0]), vec![0.5, 0.5]);
    agree(&trees, 1, &mut Random::new(1, 1));
}

#[test]
fn a_tree_whose_children_are_shared_is_walked() {
    let split = |at: u32| Node::new(Step::Split { feature: 0, threshold: f64::from(at), left: at + 1 });
    let mut nodes: Vec<Node> = (0..60).map(split).collect();
    nodes.extend([Node::new(Step::Leaf(0)), Node::new(Step::Leaf(1))]);
    let trees = Trees { rule: Rule::Below, leaves: Leaves::votes(2), trees: vec![Tree(nodes); 4] };
    assert_eq!(agree(&trees, 1, &mut Random::new(1, 1)), (0, 0, 4));
}
