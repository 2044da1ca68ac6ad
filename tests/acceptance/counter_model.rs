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
use gateway::edge::counter::{Change, Keys, MemoryStore, SCRIPT};
use gateway::policy::limit::cost::Size;
use gateway::policy::limit::scope::Subject;
use gateway::policy::limit::window::Standing;
use gateway::policy::limit::{self, Decision, Demand, Limit};
use gateway::settings::{Mistakes, Section, Source};
use harness::Redis;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CLOCK: &str = "redis.call('TIME')";
const SECOND: u64 = 1_000_000;

/// A limit of a history.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one key of a limit, there or not")]
struct Shape {
    quota: u64,
    /// Seconds.
    window: u64,
    by: Vec<&'static str>,
    /// Ten, where the window has buckets.
    is_bucketed: bool,
    is_wide: bool,
    is_shadow: bool,
    counts_rows: bool,
}

/// A step of a history.
#[derive(Clone, Debug)]
struct Asked {
    /// The clock's step since the one before, in microseconds; negative where it steps back.
    step: i64,
    address: u8,
    principal: usize,
    rows: u64,
    /// Which of the limits the request meets.
    limits: Vec<bool>,
    /// Gives back, in place of asking, what was admitted so many admissions ago.
    gives_back: Option<usize>,
}

impl Asked {
    fn meets(&self, limits: &[Arc<Limit>]) -> Vec<Arc<Limit>> {
        limits.iter().zip(&self.limits).filter(|(_, met)| **met).map(|(limit, _)| Arc::clone(limit)).collect()
    }

    fn subject(&self) -> Subject<'static> {
        Subject {
            address: std::net::Ipv4Addr::new(192, 0, 2, self.address).into(),
            principal: ["a", "b"][self.principal],
            api_key: "",
            role: "",
            route: "r",
            model: "",
            pool: "",
            user: "",
            headers: None,
        }
    }

    fn demands<'a>(&self, limits: &'a [Arc<Limit>]) -> Vec<Demand<'a>> {
        limits.iter().map(|limit| Demand::new(limit, None, Size { rows: self.rows, bytes: 0 })).collect()
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
    let tables = shapes.iter().enumerate().map(|(index, shape)| {
        let Shape { quota, window, by, .. } = shape;
        let mut table =
            format!("[limits.l{index}]\nquota = {quota}\nwindow = \"{window}s\"\nby = {by:?}\nstore_lost = \"deny\"\n");
        for (is_so, line) in [
            (shape.is_bucketed, "form = \"buckets\"\nbuckets = 10\n"),
            (shape.is_wide, "principals = { nobody = 70000 }\n"),
            (shape.is_wide && !shape.is_bucketed, "form = \"buckets\"\nbuckets = 10000\n"),
            (shape.is_shadow, "when_full = \"shadow\"\n"),
            (shape.counts_rows, "cost = \"rows\"\n"),
        ] {
            table.push_str(if is_so { line } else { "" });
        }
        table
    });
    let toml = tables.collect::<Vec<_>>().concat();
    let dict: Dict = Figment::from(Toml::string(&toml)).extract().expect("good TOML");
    let mistakes = Mistakes::default();
    let mut limits: Vec<Arc<Limit>> =
        limit::compile_all(&Section::root(&Nowhere, &mistakes, &dict), &[], false).into_values().collect();
    assert_eq!(mistakes.into_vec().len(), 0, "{toml}");
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    limits
}

/// The names of a request's windows, without Redis's prefix.
fn names(limits: &[Arc<Limit>], asked: &Asked) -> Vec<String> {
    let keys = Keys::new(&asked.demands(limits), &asked.subject());
    keys.iter().map(|key| String::from_utf8(key.to_vec()).expect("text")).collect()
}

/// Every admission there ever was, by window: when, and how many units. Those of one grain of time are moved to its
/// last, as a window with buckets says that it does.
#[derive(Default)]
struct Model(HashMap<String, Vec<(u64, u64)>>);

impl Model {
    fn counted(&self, limit: &Limit, key: &str, now: u64) -> Vec<(u64, u64)> {
        let all = self.0.get(key).map_or(&[][..], Vec::as_slice);
        all.iter().copied().filter(|&(at, units)| units > 0 && at + limit.rule.window > now).collect()
    }

    fn used(&self, limit: &Limit, key: &str, now: u64) -> u64 {
        self.counted(limit, key, now).iter().map(|(_, units)| units).sum()
    }

    /// What lies in the future of a clock that stepped back is of now.
    fn step_back(&mut self, key: &str, now: u64) {
        for (at, _) in self.0.entry(key.into()).or_default() {
            *at = (*at).min(now);
        }
    }

    fn record(&mut self, limit: &Limit, key: &str, units: u64, now: u64) {
        let all = self.0.entry(key.into()).or_default();
        let grain = limit.rule.grain;
        if let Some((last, _)) = all.last().copied() {
            for (at, _) in all.iter_mut().filter(|(at, _)| *at == last && last / grain == now / grain) {
                *at = now;
            }
        }
        all.push((now, units));
    }

    fn decide(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
        let demands = asked.demands(limits);
        let keys = names(limits, asked);
        for key in &keys {
            self.step_back(key, now);
        }
        let full: Vec<bool> = demands
            .iter()
            .zip(&keys)
            .map(|(demand, key)| self.used(demand.limit, key, now) + demand.cost > demand.rate.quota)
            .collect();
        let admitted = demands.iter().zip(&full).all(|(demand, full)| !full || !demand.is_enforced());
        let mut decision = Decision::new(admitted, now);
        for ((demand, key), full) in demands.iter().zip(&keys).zip(full) {
            if admitted && !full {
                self.record(demand.limit, key, demand.cost, now);
            }
            let counted = self.counted(demand.limit, key, now);
            let left = |at: u64| at + demand.limit.rule.window - now;
            let used: u64 = counted.iter().map(|(_, units)| units).sum();
            // The first time at which enough has left; the last where that is never enough.
            let has_room = |at: &u64| {
                let rest: u64 = counted.iter().filter(|(other, _)| other > at).map(|(_, units)| units).sum();
                rest + demand.cost <= demand.rate.quota
            };
            let mut times = counted.iter().map(|(at, _)| *at);
            let retry = times.clone().find(has_room).or(times.next_back());
            decision.push(Standing {
                full,
                used,
                reset: counted.first().map_or(0, |(at, _)| left(*at)),
                retry: if full { retry.map_or(0, left) } else { 0 },
            });
        }
        decision
    }

    /// Takes back what was counted at `at`, as far as it is still there.
    fn give_back(&mut self, limit: &Limit, key: &str, mut units: u64, at: u64, now: u64) {
        self.step_back(key, now);
        let (grain, window) = (limit.rule.grain, limit.rule.window);
        for (time, held) in self.0.entry(key.into()).or_default() {
            if *time / grain == at / grain && *time + window > now {
                let taken = units.min(*held);
                *held -= taken;
                units -= taken;
            }
        }
    }
}

/// Never more than the quota in any window, whatever was decided and given back.
fn assert_bounds(limits: &[Arc<Limit>], admissions: &HashMap<String, Vec<(u64, u64)>>) {
    for (key, all) in admissions {
        let limit = limits.iter().find(|limit| key.split(':').nth(1) == Some(&*limit.name)).expect("a limit's key");
        let quota = limit.rate(None).quota;
        for (index, (begin, _)) in all.iter().enumerate() {
            let within = all[index..].iter().take_while(|(at, _)| at - begin < limit.rule.window);
            let sum: u64 = within.map(|(_, units)| units).sum();
            assert!(sum <= quota, "{key}: {sum} units in the window that begins at {begin}");
        }
    }
}

fn histories(steps: std::ops::Range<i64>) -> impl Strategy<Value = (Vec<Shape>, Vec<Asked>)> {
    let by = prop_oneof![
        Just(vec!["address"]),
        Just(vec!["principal"]),
        Just(vec!["address", "principal"]),
        Just(vec!["route"])
    ];
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.3), prop::bool::weighted(0.2), any::<bool>());
    let shape = (1..12_u64, 1..5_u64, by, flags).prop_map(|(quota, window, by, flags)| {
        let (is_bucketed, is_wide, is_shadow, counts_rows) = flags;
        Shape { quota, window, by, is_bucketed, is_wide, is_shadow, counts_rows }
    });
    // Often the exact end of some window, one microsecond before and after it, or no time at all.
    let step = prop_oneof![
        3 => steps,
        2 => (0..5_i64, -1..2_i64).prop_map(|(seconds, off)| seconds * 1_000_000 + off.max(-seconds)),
        2 => Just(0),
    ];
    let gives_back = prop::option::weighted(0.15, 0..4_usize);
    let asked = (step, 0..2_u8, 0..2_usize, 1..6_u64, prop::collection::vec(prop::bool::weighted(0.8), 3), gives_back)
        .prop_map(|(step, address, principal, rows, limits, gives_back)| Asked {
            step,
            address,
            principal,
            rows,
            limits,
            gives_back,
        });
    (prop::collection::vec(shape, 1..4), prop::collection::vec(asked, 1..60))
}

/// A store under test.
trait Store {
    fn ask(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision;
    fn give_back(&mut self, limit: &Limit, key: &str, units: u64, at: u64, now: u64);
}

impl Store for MemoryStore {
    fn ask(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
        let demands = asked.demands(limits);
        let keys = Keys::new(&demands, &asked.subject());
        self.admit(&demands, &keys, || now, |demand| Some(demand.rate.quota)).expect("there is room")
    }

    fn give_back(&mut self, limit: &Limit, key: &str, units: u64, at: u64, now: u64) {
        self.settle(key.as_bytes(), &limit.rule, Change::GiveBack { units, at }, || now);
    }
}

/// The script on a real server, told the time.
struct Scripted<'a> {
    connection: &'a mut redis::Connection,
    script: redis::Script,
}

impl<'a> Scripted<'a> {
    fn new(connection: &'a mut redis::Connection) -> Self {
        assert_eq!(SCRIPT.matches(CLOCK).count(), 1, "the script reads the clock in one place");
        let script = redis::Script::new(&SCRIPT.replace(CLOCK, "{ ARGV[2], ARGV[3] }"));
        redis::cmd("FLUSHALL").exec(connection).expect("an empty Redis");
        Self { connection, script }
    }

    fn call(&mut self, keys: &[String], operations: &[u8], now: u64) -> Vec<u8> {
        let mut call = self.script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        call.arg(operations).arg(now / SECOND).arg(now % SECOND);
        call.invoke(self.connection).expect("the script answers")
    }
}

/// One operation, as the script's head describes it.
fn operation(kind: u8, rows: &[(&Limit, u8, [u64; 3])]) -> Vec<u8> {
    let mut octets = vec![kind, u8::try_from(rows.len()).expect("few limits")];
    for (limit, flags, [quota, cost, at]) in rows {
        octets.push(flags | u8::from(limit.rule.wide));
        for number in [*quota, limit.rule.window, limit.rule.grain, *cost, *at] {
            octets.extend_from_slice(&number.to_be_bytes()[2..]);
        }
    }
    octets
}

fn ask_operation(limits: &[Arc<Limit>], asked: &Asked) -> Vec<u8> {
    let demands = asked.demands(limits);
    let row = |demand: &Demand<'_>| if demand.is_enforced() { 0 } else { 2 };
    let rows: Vec<_> = demands.iter().map(|it| (&**it.limit, row(it), [it.rate.quota, it.cost, 0])).collect();
    operation(0, &rows)
}

fn read_answer(answer: &[u8], limits: usize) -> Decision {
    let number = |octets: &[u8]| octets.iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
    assert_eq!(answer.len(), 7 + 19 * limits, "an answer in its form");
    let mut decision = Decision::new(answer[6] == 1, number(&answer[..6]));
    for row in answer[7..].chunks(19) {
        let [used, reset, retry] = [&row[1..7], &row[7..13], &row[13..19]].map(number);
        decision.push(Standing { full: row[0] == 1, used, reset, retry });
    }
    decision
}

impl Store for Scripted<'_> {
    fn ask(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
        let answer = self.call(&names(limits, asked), &ask_operation(limits, asked), now);
        read_answer(&answer, limits.len())
    }

    fn give_back(&mut self, limit: &Limit, key: &str, units: u64, at: u64, now: u64) {
        self.call(&[key.into()], &operation(1, &[(limit, 0, [0, units, at])]), now);
    }
}

/// Plays a history to a store and to the model, and holds every decision of the one against the other. Where the clock
/// steps back, what had expired may count again, which the model does not know. Then time as a client has it, which
/// goes on, says what must hold: no window admits too much, and nobody who asks is shut
/// out for longer than one.
fn play(shapes: &[Shape], history: &[Asked], store: &mut impl Store) {
    let limits = compile(shapes);
    let mut model = Model::default();
    let (mut real, mut behind) = (1_000 * SECOND, 0);
    let mut admissions: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
    let mut past: Vec<(Arc<Limit>, String, u64, u64)> = Vec::new();
    let steps_back = history.iter().any(|asked| asked.step < 0);
    // How often the clock stepped back, and by window when it was first asked after the last time.
    let mut steps = 0;
    let mut first_asked: HashMap<String, (usize, u64)> = HashMap::new();
    for asked in history {
        if asked.step < 0 {
            behind += asked.step.unsigned_abs();
            steps += 1;
        } else {
            real += asked.step.unsigned_abs();
        }
        let now = real - behind;
        if let Some((limit, key, units, at)) =
            asked.gives_back.and_then(|back| past.len().checked_sub(back + 1)).and_then(|place| past.get(place))
        {
            store.give_back(limit, key, *units, *at, now);
            model.give_back(limit, key, *units, *at, now);
            continue;
        }
        let met = asked.meets(&limits);
        let decision = store.ask(&met, asked, now);
        if steps_back {
            for ((demand, key), standing) in
                asked.demands(&met).iter().zip(names(&met, asked)).zip(decision.standings())
            {
                let since = real.saturating_sub(demand.limit.rule.window + demand.limit.rule.grain);
                let is_idle = admissions.get(&key).and_then(|all| all.last()).is_none_or(|(at, _)| *at < since);
                let first = first_asked.entry(key.clone()).or_insert((steps, real));
                if first.0 != steps {
                    *first = (steps, real);
                }
                let is_open = is_idle && first.1 < since && demand.cost <= demand.rate.quota;
                assert!(!(standing.full && is_open), "{key} is shut at {now}: {asked:?}");
            }
        } else {
            assert_eq!(decision, model.decide(&met, asked, now), "at {now}: {asked:?}");
        }
        if decision.admitted {
            let demands = asked.demands(&met);
            for ((demand, key), standing) in demands.iter().zip(names(&met, asked)).zip(decision.standings()) {
                if !standing.full {
                    admissions.entry(key.clone()).or_default().push((real, demand.cost));
                    past.push((Arc::clone(demand.limit), key, demand.cost, now));
                }
            }
        }
    }
    if history.iter().all(|asked| asked.gives_back.is_none()) {
        assert_bounds(&limits, &admissions);
    }
}

/// How many histories are played: some hundred, or as `HISTORIES` says.
fn count(usual: u32) -> u32 {
    std::env::var("HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

fn cases(count: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(count) })
}

const STEPS: std::ops::Range<i64> = 0..5_000_000;
/// Of a clock that steps back.
const BACK: std::ops::Range<i64> = -5_000_000..5_000_000;

#[test]
fn memory_decides_as_the_model_does() {
    for steps in [STEPS, BACK] {
        let checked = cases(count(400)).run(&histories(steps), |(shapes, history)| {
            play(&shapes, &history, &mut MemoryStore::new(1024));
            Ok(())
        });
        checked.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Forgetting what has expired changes nothing.
#[test]
fn memory_that_is_swept_decides_as_the_model_does() {
    struct Swept(MemoryStore);
    impl Store for Swept {
        fn ask(&mut self, limits: &[Arc<Limit>], asked: &Asked, now: u64) -> Decision {
            self.0.sweep(|| now);
            self.0.ask(limits, asked, now)
        }
        fn give_back(&mut self, limit: &Limit, key: &str, units: u64, at: u64, now: u64) {
            self.0.give_back(limit, key, units, at, now);
        }
    }
    let checked = cases(count(200)).run(&histories(0..5_000_000), |(shapes, history)| {
        play(&shapes, &history, &mut Swept(MemoryStore::new(1024)));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn redis_decides_as_the_model_does() {
    let redis = Redis::start().await;
    let connection = std::cell::RefCell::new(redis.connect());
    for steps in [STEPS, BACK] {
        let checked = cases(count(200)).run(&histories(steps), |(shapes, history)| {
            play(&shapes, &history, &mut Scripted::new(&mut connection.borrow_mut()));
            Ok(())
        });
        checked.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Many questions in one call are answered as one after the other.
#[tokio::test]
async fn a_call_decides_as_many_calls_do() {
    let redis = Redis::start().await;
    let connection = std::cell::RefCell::new(redis.connect());
    let checked = cases(count(200)).run(&histories(0..1), |(shapes, history)| {
        let limits = compile(&shapes);
        let now = 1_000 * SECOND;
        let connection = &mut *connection.borrow_mut();
        let mut store = Scripted::new(connection);
        let single: Vec<Decision> = history.iter().map(|asked| store.ask(&asked.meets(&limits), asked, now)).collect();
        let mut store = Scripted::new(store.connection);
        let (mut keys, mut operations) = (Vec::new(), Vec::new());
        for asked in &history {
            let met = asked.meets(&limits);
            keys.extend(names(&met, asked));
            operations.extend(ask_operation(&met, asked));
        }
        let answer = store.call(&keys, &operations, now);
        let (time, mut rest) = answer.split_at(6);
        for (asked, single) in history.iter().zip(single) {
            let limits = asked.meets(&limits).len();
            let (one, others) = rest.split_at(1 + 19 * limits);
            rest = others;
            assert_eq!(read_answer(&[time, one].concat(), limits), single, "{asked:?}");
        }
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn the_script_keeps_its_keys_as_long_as_they_count_and_no_longer() {
    let redis = Redis::start().await;
    let mut connection = redis.connect();
    let script = redis::Script::new(SCRIPT);
    let shape = Shape { quota: 2, window: 5, by: vec!["route"], ..Shape::default() };
    let limits = compile(&[shape]);
    let ask = |connection: &mut redis::Connection| {
        let operation = operation(0, &[(&limits[0], 0, [2, 1, 0])]);
        let answer: Vec<u8> = script.key("w").arg(operation).invoke(connection).expect("an answer");
        read_answer(&answer, 1)
    };
    let first = ask(&mut connection);
    assert!(first.admitted && first.standings()[0].used == 1);
    let life =
        |connection: &mut redis::Connection| redis::cmd("PTTL").arg("w").query::<u64>(connection).expect("a time");
    // Nine eighths of a window, which the next admissions in the same eighth leave as it is.
    assert!((5_000..=5_625).contains(&life(&mut connection)));
    assert!(ask(&mut connection).admitted);
    let value =
        |connection: &mut redis::Connection| redis::cmd("GET").arg("w").query::<Vec<u8>>(connection).expect("octets");
    let before = value(&mut connection);
    assert_eq!(before.len(), 2 + 2 * 8, "eight octets an entry");
    // A refusal does not prolong it, and nothing is written.
    for _ in 0..3 {
        assert!(!ask(&mut connection).admitted);
    }
    assert_eq!(value(&mut connection), before);
    assert!(life(&mut connection) <= 5_625);
}

/// Many threads on one store: the quota is exact, and two windows in the opposite order never wait for each other.
#[test]
fn memory_admits_exactly_the_quota_to_many_threads() {
    let shape = |quota, by| Shape { quota, window: 60, by: vec![by], ..Shape::default() };
    let limits = compile(&[shape(500, "address"), shape(300, "principal")]);
    let turned: Vec<Arc<Limit>> = limits.iter().rev().cloned().collect();
    let store = MemoryStore::new(1024);
    let asked = Asked { step: 0, address: 1, principal: 0, rows: 1, limits: vec![true; 2], gives_back: None };
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (store, asked) = (&store, &asked);
                let limits = if number % 2 == 0 { &limits } else { &turned };
                scope.spawn(move || {
                    let demands = asked.demands(limits);
                    let keys = Keys::new(&demands, &asked.subject());
                    let ask = |now: &u64| {
                        store.admit(&demands, &keys, || *now, |it| Some(it.rate.quota)).expect("room").admitted
                    };
                    (0..200).filter(ask).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    });
    assert_eq!(admitted, 300);
}
