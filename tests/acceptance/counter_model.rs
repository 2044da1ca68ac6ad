//! Both stores against a model that is too plain to be wrong, over random histories.
//!
//! The model remembers every admission for ever and counts those of the last window. The Redis script runs
//! on a real server; its one line that reads the clock is replaced, so that a history can take hours, hit
//! the very microsecond at which a window ends, and have a clock that steps back.

use std::collections::HashMap;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;
use gateway::edge::counter::MemoryStore;
use gateway::policy::limit::{self, Decision, Limit, Standing, Subject};
use gateway::settings::{Mistakes, Section, Source};
use gateway::types::{AddressBucket, Name};
use harness::Redis;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const SCRIPT: &str = include_str!("../../gateway/src/edge/counter.lua");
const CLOCK: &str = "redis.call('TIME')";
const SECOND: u64 = 1_000_000;

/// A limit of a history: its quota, its window in seconds, and whether it counts by address, principal, route.
type Shape = (u32, u64, [bool; 3]);

/// A request of a history.
#[derive(Clone, Debug)]
struct Asked {
    /// The clock's step since the request before, in microseconds; negative where it steps back.
    step: i64,
    address: u8,
    principal: usize,
    route: usize,
    /// Which of the limits the request meets.
    limits: Vec<bool>,
}

impl Asked {
    fn meets(&self, limits: &[Arc<Limit>]) -> Vec<Arc<Limit>> {
        limits.iter().zip(&self.limits).filter(|(_, met)| **met).map(|(limit, _)| Arc::clone(limit)).collect()
    }
}

/// Where there is nothing but what the test writes.
struct Nowhere;

impl Source for Nowhere {
    fn locate(&self, _: &[String]) -> String {
        String::new()
    }
    fn rank(&self, _: &[String]) -> Option<usize> {
        None
    }
    fn file(&self, _: &str) -> Result<Vec<u8>, String> {
        Err(String::new())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// Compiles limits as the policy does.
fn compile(shapes: &[Shape]) -> Vec<Arc<Limit>> {
    let tables = shapes.iter().enumerate().map(|(index, (quota, window, by))| {
        let names = ["address", "principal", "route"].into_iter().zip(by).filter(|(_, counts)| **counts);
        let by: Vec<&str> = names.map(|(name, _)| name).collect();
        format!("[limits.l{index}]\nquota = {quota}\nwindow = \"{window}s\"\nby = {by:?}\nstore_lost = \"deny\"\n")
    });
    let toml = tables.collect::<Vec<_>>().concat();
    let dict: Dict = Figment::from(Toml::string(&toml)).extract().expect("good TOML");
    let mistakes = Mistakes::default();
    let mut limits: Vec<Arc<Limit>> =
        limit::compile_all(&Section::root(&Nowhere, &mistakes, &dict)).into_values().collect();
    assert_eq!(mistakes.into_vec().len(), 0, "{toml}");
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    limits
}

fn window_key(limit: &Limit, asked: &Asked) -> String {
    let part = |counts: bool, value: usize| if counts { value.to_string() } else { "-".into() };
    let scope = limit.scope;
    let (address, principal, route) = (
        part(scope.address, asked.address.into()),
        part(scope.principal, asked.principal),
        part(scope.route, asked.route),
    );
    format!("{}:{address}:{principal}:{route}", limit.name)
}

/// Every admission there ever was, by window.
#[derive(Default)]
struct Model(HashMap<String, Vec<u64>>);

impl Model {
    /// Admissions of the last window: those after `now - window`.
    fn counted(&self, limit: &Limit, key: &str, now: u64) -> Vec<u64> {
        let all = self.0.get(key).map_or(&[][..], Vec::as_slice);
        all.iter().copied().filter(|&at| at + limit.window > now).collect()
    }

    fn decide(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
        let keys: Vec<String> = limits.iter().map(|limit| window_key(limit, asked)).collect();
        let free = |model: &Self, limit: &Limit, key: &str| model.counted(limit, key, now).len() < limit.quota as usize;
        let admitted = limits.iter().zip(&keys).all(|(limit, key)| free(self, limit, key));
        if admitted {
            for key in &keys {
                self.0.entry(key.clone()).or_default().push(now);
            }
        }
        let standings = limits.iter().zip(&keys).map(|(limit, key)| {
            let counted = self.counted(limit, key, now);
            Standing {
                remaining: limit.quota - u32::try_from(counted.len()).expect("at most the quota"),
                reset: counted.first().map_or(0, |&first| first + limit.window - now),
            }
        });
        Decision { admitted, standings: standings.collect() }
    }

    /// No window of any length-W interval admits more than L, whatever was decided.
    fn assert_bounds(&self, limits: &[Arc<Limit>]) {
        for (key, all) in &self.0 {
            let limit = limits.iter().find(|limit| key.split(':').next() == Some(&*limit.name)).expect("a limit's key");
            for (first, beyond) in all.iter().zip(all.iter().skip(limit.quota as usize)) {
                assert!(beyond - first >= limit.window, "{key}: {first} and {beyond} lie in one window");
            }
        }
    }
}

fn histories(steps: std::ops::Range<i64>) -> impl Strategy<Value = (Vec<Shape>, Vec<Asked>)> {
    let by = prop::array::uniform3(any::<bool>()).prop_filter("counts by something", |by| by.contains(&true));
    let shapes = prop::collection::vec((1..5_u32, 1..5_u64, by), 1..4);
    // Often the exact end of some window, one microsecond before and after it, or no time at all.
    let step = prop_oneof![
        3 => steps,
        2 => (0..5_i64, -1..2_i64).prop_map(|(seconds, off)| seconds * 1_000_000 + off.max(-seconds)),
        2 => Just(0),
    ];
    let asked = (step, 0..2_u8, 0..2_usize, 0..2_usize, prop::collection::vec(prop::bool::weighted(0.8), 3))
        .prop_map(|(step, address, principal, route, limits)| Asked { step, address, principal, route, limits });
    (shapes, prop::collection::vec(asked, 1..60))
}

/// Plays a history to a store and to the model, and holds every decision of the one against the other.
fn play(shapes: &[Shape], history: &[Asked], mut store: impl FnMut(&[Arc<Limit>], &Asked, u64) -> Decision) {
    let limits = compile(shapes);
    let mut model = Model::default();
    let mut now = 1_000 * SECOND;
    for asked in history {
        now = now.saturating_add_signed(asked.step);
        let met = asked.meets(&limits);
        assert_eq!(store(&met, asked, now), model.decide(&met, asked, now), "at {now}: {asked:?}");
    }
    model.assert_bounds(&limits);
}

fn ask_memory(store: &MemoryStore, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
    let names: [Name; 2] = ["a".into(), "b".into()];
    let address = AddressBucket::of(std::net::Ipv4Addr::new(192, 0, 2, asked.address).into());
    let subject = Subject { address, principal: &names[asked.principal], route: &names[asked.route] };
    store.admit(limits, &subject, now).expect("there is room")
}

fn ask_redis(connection: &mut redis::Connection, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
    assert_eq!(SCRIPT.matches(CLOCK).count(), 1, "the script reads the clock in one place");
    let script = redis::Script::new(&SCRIPT.replace(CLOCK, "{ ARGV[#ARGV - 1], ARGV[#ARGV] }"));
    let mut call = script.prepare_invoke();
    for limit in limits {
        call.key(window_key(limit, asked)).arg(limit.quota).arg(limit.window);
    }
    call.arg(now / SECOND).arg(now % SECOND);
    let answer: Vec<u64> = call.invoke(connection).expect("the script answers");
    Decision::read(&answer, limits.len()).expect("an answer in its form")
}

fn cases(count: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(count) })
}

#[test]
fn memory_decides_as_the_model_does() {
    let checked = cases(400).run(&histories(0..5_000_000), |(shapes, history)| {
        let store = MemoryStore::new(1024);
        play(&shapes, &history, |limits, asked, now| ask_memory(&store, limits, asked, now));
        // Forgetting what has expired changes nothing.
        let store = MemoryStore::new(1024);
        play(&shapes, &history, |limits, asked, now| {
            store.sweep(now);
            ask_memory(&store, limits, asked, now)
        });
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn redis_decides_as_the_model_does() {
    let redis = Redis::start().await;
    let connection = std::cell::RefCell::new(redis.connect());
    let checked = cases(300).run(&histories(0..5_000_000), |(shapes, history)| {
        let connection = &mut *connection.borrow_mut();
        redis::cmd("FLUSHALL").exec(connection).expect("an empty Redis");
        play(&shapes, &history, |limits, asked, now| ask_redis(connection, limits, asked, now));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A clock that steps back makes windows stricter, never wider: counted in real time, which goes on while
/// the clock steps back, no window admits more than its quota. Both stores decide alike then too.
#[tokio::test]
async fn no_window_grows_while_the_clock_steps_back() {
    let redis = Redis::start().await;
    let connection = std::cell::RefCell::new(redis.connect());
    let checked = cases(300).run(&histories(-2_000_000..3_000_000), |(shapes, history)| {
        let limits = compile(&shapes);
        let memory = MemoryStore::new(1024);
        let connection = &mut *connection.borrow_mut();
        redis::cmd("FLUSHALL").exec(connection).expect("an empty Redis");
        let mut admissions = Model::default();
        let (mut real, mut behind) = (1_000 * SECOND, 0);
        for asked in &history {
            if asked.step < 0 {
                behind += asked.step.unsigned_abs();
            } else {
                real += asked.step.unsigned_abs();
            }
            let now = real - behind;
            let met = asked.meets(&limits);
            let decision = ask_memory(&memory, &met, asked, now);
            assert_eq!(ask_redis(connection, &met, asked, now), decision, "at {now}: {asked:?}");
            if decision.admitted {
                for limit in &met {
                    admissions.0.entry(window_key(limit, asked)).or_default().push(real);
                }
            }
        }
        admissions.assert_bounds(&limits);
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn the_script_keeps_its_keys_as_long_as_they_count_and_no_longer() {
    let redis = Redis::start().await;
    let mut connection = redis.connect();
    let script = redis::Script::new(SCRIPT);
    let answer: Vec<u64> = script.key("w").arg(2).arg(5 * SECOND).invoke(&mut connection).expect("an answer");
    assert_eq!(answer[..2], [1, 1]);
    assert!((5 * SECOND - 1000..=5 * SECOND).contains(&answer[2]), "{answer:?}");
    let life =
        |connection: &mut redis::Connection| redis::cmd("PTTL").arg("w").query::<u64>(connection).expect("a time");
    assert!((4_000..=5_000).contains(&life(&mut connection)));
    // A refusal does not prolong it, and nothing is written.
    let before: Vec<u64> = redis::cmd("LRANGE").arg("w").arg(0).arg(-1).query(&mut connection).expect("a list");
    for _ in 0..3 {
        let _: Vec<u64> = script.key("w").arg(1).arg(5 * SECOND).invoke(&mut connection).expect("an answer");
    }
    let after: Vec<u64> = redis::cmd("LRANGE").arg("w").arg(0).arg(-1).query(&mut connection).expect("a list");
    assert_eq!(before, after);
}

/// Many threads on one store: the quota is exact, and two windows in the opposite order never wait for each other.
#[test]
fn memory_admits_exactly_the_quota_to_many_threads() {
    let limits = compile(&[(500, 60, [true, false, false]), (300, 60, [false, true, false])]);
    let turned: Vec<Arc<Limit>> = limits.iter().rev().cloned().collect();
    let store = MemoryStore::new(1024);
    let (principal, route): (Name, Name) = ("p".into(), "r".into());
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (store, principal, route) = (&store, &principal, &route);
                let limits = if number % 2 == 0 { &limits } else { &turned };
                scope.spawn(move || {
                    let subject =
                        Subject { address: AddressBucket::of(std::net::Ipv4Addr::LOCALHOST.into()), principal, route };
                    (0..200).filter(|now| store.admit(limits, &subject, *now).expect("room").admitted).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    });
    assert_eq!(admitted, 300);
}
