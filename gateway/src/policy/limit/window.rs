//! The arithmetic of one sliding window, as the in-process store keeps it and the Redis script repeats it.
//!
//! A window remembers entries: when something was admitted, and how many units. An entry counts until just before
//! one window's length has passed. What is admitted in the same grain of time is one entry with the later time,
//! so that units never leave early: with a grain of a microsecond nothing is lost, with a coarser one a window
//! may refuse early by what one grain holds, and never admits too much.

use std::collections::VecDeque;

/// How one window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The window's length in microseconds.
    pub window: u64,
    /// What is admitted within one grain is remembered as one entry, in microseconds; 1 is exact.
    pub grain: u64,
    /// Whether sums can pass 65,535, so that an entry takes 12 octets in Redis in place of 8.
    pub wide: bool,
}

/// Where one limit stands after a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether there was no room for the request.
    pub full: bool,
    /// The units that count now.
    pub used: u64,
    /// Microseconds until some of them leave; 0 where there are none.
    pub reset: u64,
    /// Where it is full, microseconds until the same request has room if nothing else comes.
    pub retry: u64,
}

impl Standing {
    /// Of a limit that nobody has asked.
    pub const UNKNOWN: Self = Self { full: false, used: u64::MAX, reset: 0, retry: 0 };

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// The same after so many microseconds in which nothing was admitted.
    #[must_use]
    pub fn later(self, by: u64) -> Self {
        Self { reset: self.reset.saturating_sub(by), retry: self.retry.saturating_sub(by), ..self }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    units: u64,
}

/// What one window remembers, oldest first.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    used: u64,
}

impl Window {
    /// Forgets what counts no more. A clock that stepped back left entries in its future: they become one of now,
    /// so that they count for one window from here at most.
    pub fn advance(&mut self, rule: &Rule, now: u64) {
        let mut future = 0;
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.at > now) {
            future += entry.units;
        }
        if future > 0 {
            self.entries.push_back(Entry { at: now, units: future });
        }
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.at.saturating_add(rule.window) <= now) {
            self.used -= entry.units;
        }
    }

    /// Where a request of so many units stands. Call [`Window::advance`] first.
    #[must_use]
    pub fn standing(&self, rule: &Rule, quota: u64, cost: u64, now: u64) -> Standing {
        let left_in = |entry: &Entry| entry.at.saturating_add(rule.window).saturating_sub(now);
        let wanted = self.used.saturating_add(cost);
        let full = wanted > quota;
        let mut standing = Standing { full, used: self.used, reset: self.entries.front().map_or(0, left_in), retry: 0 };
        let mut too_much = wanted.saturating_sub(quota);
        for entry in self.entries.iter().take_while(|_| full) {
            standing.retry = left_in(entry);
            too_much = too_much.saturating_sub(entry.units);
            if too_much == 0 {
                break;
            }
        }
        standing
    }

    /// Counts units. Call [`Window::advance`] first.
    pub fn record(&mut self, rule: &Rule, units: u64, now: u64) {
        self.used = self.used.saturating_add(units);
        match self.entries.back_mut() {
            Some(last) if last.at / rule.grain == now / rule.grain => {
                last.at = now;
                last.units = last.units.saturating_add(units);
            }
            _ => self.entries.push_back(Entry { at: now, units }),
        }
    }

    /// Takes units back that were counted at `at`, if they are still here. Call [`Window::advance`] first.
    pub fn give_back(&mut self, rule: &Rule, units: u64, at: u64) {
        let grain = at / rule.grain;
        let position = self.entries.partition_point(|entry| entry.at / rule.grain < grain);
        let Some(entry) = self.entries.get_mut(position).filter(|entry| entry.at / rule.grain == grain) else { return };
        let units = units.min(entry.units);
        entry.units -= units;
        self.used -= units;
        if entry.units == 0 {
            self.entries.remove(position);
        }
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The units that count. Call [`Window::advance`] first.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::{Rule, Standing, Window};
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn exact(window: u64) -> Rule {
        Rule { window, grain: 1, wide: false }
    }

    /// Asks, and counts where there is room.
    fn ask(window: &mut Window, rule: &Rule, quota: u64, cost: u64, now: u64) -> Standing {
        window.advance(rule, now);
        let standing = window.standing(rule, quota, cost, now);
        if standing.full {
            return standing;
        }
        window.record(rule, cost, now);
        Standing { full: false, ..window.standing(rule, quota, 0, now) }
    }

    #[test]
    fn the_window_slides() {
        let rule = exact(10 * SECOND);
        let mut window = Window::default();
        for (at, full, used, reset, retry) in [
            (0, false, 1, 10 * SECOND, 0),
            (9 * SECOND, false, 2, SECOND, 0),
            (10 * SECOND - 1, true, 2, 1, 1),
            // At 10 s only the first left the window: a fixed window would admit two more here.
            (10 * SECOND, false, 2, 9 * SECOND, 0),
            (10 * SECOND, true, 2, 9 * SECOND, 9 * SECOND),
            (19 * SECOND, false, 2, SECOND, 0),
        ] {
            assert_eq!(ask(&mut window, &rule, 2, 1, at), Standing { full, used, reset, retry }, "at {at}");
        }
    }

    #[test]
    fn a_dearer_request_waits_for_more_to_leave() {
        let rule = exact(10 * SECOND);
        let mut window = Window::default();
        for (at, cost) in [(0, 2), (SECOND, 3), (2 * SECOND, 4)] {
            assert!(!ask(&mut window, &rule, 10, cost, at).full);
        }
        for (cost, retry) in [(2, 8), (3, 8), (4, 9), (6, 9), (7, 10), (10, 10)] {
            let standing = ask(&mut window, &rule, 10, cost, 2 * SECOND);
            assert_eq!((standing.full, standing.retry), (true, retry * SECOND), "{cost}");
        }
        window.give_back(&rule, 3, SECOND);
        assert_eq!((window.used(), ask(&mut window, &rule, 10, 4, 2 * SECOND).full), (6, false));
    }

    #[test]
    fn a_clock_that_steps_back_shuts_nobody_out_for_longer_than_a_window() {
        let rule = exact(10 * SECOND);
        let mut window = Window::default();
        let hour = 3600 * SECOND;
        assert!(!ask(&mut window, &rule, 2, 1, hour).full);
        assert!(!ask(&mut window, &rule, 2, 1, hour).full);
        assert_eq!(ask(&mut window, &rule, 2, 1, SECOND).retry, 10 * SECOND);
        assert!(ask(&mut window, &rule, 2, 1, 11 * SECOND - 1).full);
        assert!(!ask(&mut window, &rule, 2, 1, 11 * SECOND).full);
    }

    proptest! {
        /// Held against every admission there ever was: never too much, and early by one grain's share at most.
        #[test]
        fn the_error_is_one_sided(
            quota in 1u64..20,
            grain in prop_oneof![Just(1u64), Just(SECOND / 2), Just(SECOND)],
            asked in prop::collection::vec((0u64..2 * SECOND, 1u64..5), 1..200),
        ) {
            let rule = Rule { window: 5 * SECOND, grain, wide: false };
            let mut window = Window::default();
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (step, cost) in asked {
                now += step;
                let counted = |since: u64| admitted.iter().filter(|(at, _)| at + since > now).map(|(_, n)| n).sum::<u64>();
                let standing = ask(&mut window, &rule, quota, cost, now);
                if counted(rule.window) + cost > quota {
                    prop_assert!(standing.full);
                }
                if counted(rule.window + grain - 1) + cost <= quota {
                    prop_assert!(!standing.full);
                }
                if !standing.full {
                    admitted.push((now, cost));
                }
            }
        }
    }
}
