//! Probabilities with less in them: rounded to a grid, or the largest few. Their sum and their largest stay true.

/// A grid of so many steps from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid(u32);

impl Grid {
    pub(super) fn new(steps: u32) -> Self {
        Self(steps)
    }

    pub(super) fn steps(self) -> u32 {
        self.0
    }

    /// The nearest step.
    pub(super) fn nearest(self, value: f64) -> f64 {
        let steps = f64::from(self.0);
        (value * steps).round() / steps
    }

    /// Puts all of them on steps whose sum is the step nearest to their sum, by largest remainders. What was largest
    /// stays the largest, alone if it was alone.
    pub(super) fn round(self, values: &mut [f64]) {
        let steps = f64::from(self.0);
        let Some(largest) = largest(values) else { return };
        let total = (values.iter().sum::<f64>() * steps).round();
        let mut floors: Vec<f64> = values.iter().map(|value| (value * steps).floor()).collect();
        let mut order: Vec<usize> = (0..values.len()).collect();
        let remainder = |index: &usize| {
            let (value, floor) = (values.get(*index).copied(), floors.get(*index).copied());
            value.unwrap_or_default() * steps - floor.unwrap_or_default()
        };
        order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
        let mut missing = total - floors.iter().sum::<f64>();
        for index in order {
            if missing < 0.5 {
                break;
            }
            if let Some(floor) = floors.get_mut(index) {
                *floor += 1.0;
                missing -= 1.0;
            }
        }
        // A step from whoever has come level with the largest.
        let alone = values.get(largest).copied().unwrap_or_default();
        for index in (0..values.len()).filter(|index| *index != largest) {
            let was_less = values.get(index).is_some_and(|value| *value < alone);
            let top = floors.get(largest).copied().unwrap_or_default();
            if let Some(floor) = floors.get_mut(index).filter(|floor| was_less && **floor >= top && **floor > 0.0) {
                *floor -= 1.0;
                if let Some(top) = floors.get_mut(largest) {
                    *top += 1.0;
                }
            }
        }
        for (value, floor) in values.iter_mut().zip(floors) {
            *value = floor / steps;
        }
    }
}

/// The place of the largest; the first of several.
fn largest(values: &[f64]) -> Option<usize> {
    values.iter().enumerate().reduce(|most, next| if next.1 > most.1 { next } else { most }).map(|(index, _)| index)
}

/// The places of the largest `most`, largest first; of equals the first ones.
pub(super) fn top(values: &[f64], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let value = |index: &usize| values.get(*index).copied().unwrap_or_default();
    order.sort_by(|a, b| value(b).total_cmp(&value(a)));
    order.truncate(most);
    order
}

/// Leaves the largest `most` as they are, and shares what the others have among them evenly: none becomes larger than
/// one that is shown, and the sum stays.
pub(super) fn level_rest(values: &mut [f64], most: usize) {
    let shown = top(values, most);
    let rest: Vec<usize> = (0..values.len()).filter(|index| !shown.contains(index)).collect();
    let sum: f64 = rest.iter().filter_map(|index| values.get(*index)).sum();
    let count = u32::try_from(rest.len()).map_or(f64::INFINITY, f64::from);
    for index in rest {
        if let Some(value) = values.get_mut(index) {
            *value = sum / count;
        }
    }
}

/// Whether they can be probabilities at all.
pub(super) fn are_sound(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && (0.0..=1.0 + 1e-6).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thirds_make_a_whole() {
        let mut thirds = [1.0 / 3.0; 3];
        Grid::new(100).round(&mut thirds);
        assert_eq!(format!("{thirds:?}"), "[0.34, 0.33, 0.33]");
        let mut close = [0.449, 0.451, 0.1];
        Grid::new(10).round(&mut close);
        assert_eq!(format!("{close:?}"), "[0.4, 0.5, 0.1]");
        let mut rest = [0.1, 0.6, 0.3];
        level_rest(&mut rest, 1);
        assert_eq!(format!("{rest:?}"), "[0.2, 0.6, 0.2]");
    }

    proptest! {
        #[test]
        fn sum_and_largest_stay_true(parts in prop::collection::vec(0.0_f64..1.0, 1..12), steps in 2_u32..2000, most in 1_usize..5) {
            let sum: f64 = parts.iter().sum::<f64>().max(1e-9);
            let values: Vec<f64> = parts.iter().map(|part| part / sum).collect();
            let first = largest(&values).expect("one at least");
            let alone = values.iter().filter(|value| **value >= values[first]).count() == 1;
            for shaped in [
                { let mut it = values.clone(); Grid::new(steps).round(&mut it); it },
                { let mut it = values.clone(); level_rest(&mut it, most); it },
                { let mut it = values.clone(); level_rest(&mut it, most); Grid::new(steps).round(&mut it); it },
            ] {
                prop_assert!((shaped.iter().sum::<f64>() - values.iter().sum::<f64>()).abs() <= 0.5 / f64::from(steps) + 1e-9, "{values:?} {shaped:?}");
                prop_assert!(shaped.iter().all(|value| (0.0..=1.0 + 1e-9).contains(value)), "{shaped:?}");
                if alone {
                    prop_assert_eq!(largest(&shaped), Some(first), "{:?} {:?}", &values, &shaped);
                    prop_assert!(shaped.iter().filter(|value| **value >= shaped[first]).count() == 1 || values.len() > steps as usize, "{values:?} {shaped:?}");
                }
            }
        }
    }
}
