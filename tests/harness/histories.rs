//! Random histories of limits over several gateways and one Redis, each held against a model too plain to be wrong.
//!
//! Redis's clock runs on, so nothing is decided at a time that is known before. Each history has its windows for
//! itself, so the exact time of an admission is read from the window's key as soon as the answer is there, and the
//! admission must fit the model then. A refusal must have been right before it was asked for: nothing makes a window
//! fuller but what the history itself admits.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::admissions::entries;
use crate::client::{Answer, Client, Connection};
use crate::redis::Redis;

const SECOND: u64 = 1_000_000;
/// Where the times of entries begin again.
const WRAP: u64 = 1 << 48;
const ROUTES: usize = 8;
const FLUSH: &str = "FLUSHALL";
/// What is done to Redis between two requests.
const FAULTS: [&str; 3] = ["SCRIPT FLUSH", "CLIENT KILL TYPE normal SKIPME yes", FLUSH];
/// How far apart that is.
const FAULTS_EVERY: Duration = Duration::from_millis(700);

/// Numbers of chance that can be had again (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A place in a list of so many.
    pub fn place(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }

    /// A number from 0 to below this.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }
}

#[derive(Clone, Debug)]
struct Limit {
    name: String,
    quota: u64,
    /// Seconds.
    window: u64,
    by_address: bool,
    counts_rows: bool,
    is_shadow: bool,
}

/// Limits and routes of chance, the same for all histories of a run.
#[derive(Clone, Debug)]
pub struct Rules {
    limits: Vec<Limit>,
    routes: Vec<Vec<usize>>,
}

impl Rules {
    /// Makes some.
    #[must_use]
    pub fn random(chance: &mut Chance) -> Self {
        let limit = |index: usize, chance: &mut Chance| Limit {
            name: format!("l{index}"),
            quota: 1 + chance.below(5),
            window: 1 + chance.below(2),
            by_address: chance.below(2) == 0,
            counts_rows: chance.below(3) == 0,
            is_shadow: chance.below(5) == 0,
        };
        let limits: Vec<Limit> = (0..2 * ROUTES).map(|index| limit(index, chance)).collect();
        let routes = (0..ROUTES).map(|_| {
            let mut met: Vec<usize> = (0..=chance.below(3)).map(|_| chance.place(2 * ROUTES)).collect();
            met.sort_unstable();
            met.dedup();
            met
        });
        Self { routes: routes.collect(), limits }
    }

    /// The policy that has them, for gateways whose proxy is this machine.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut toml = "[client_address]\ntrusted_proxies = [\"127.0.0.1\"]\n".to_owned();
        for limit in &self.limits {
            let by = if limit.by_address { ", \"address\"" } else { "" };
            let cost = if limit.counts_rows { "rows" } else { "requests" };
            let when_full = if limit.is_shadow { "shadow" } else { "refuse" };
            let _ = write!(
                toml,
                "[limits.{}]\nquota = {}\nwindow = \"{}s\"\nby = [\"header:x-tenant\"{by}]\nstore_lost = \"deny\"\n\
                 cost = \"{cost}\"\nwhen_full = \"{when_full}\"\n",
                limit.name, limit.quota, limit.window
            );
        }
        for (number, met) in self.routes.iter().enumerate() {
            let names: Vec<&str> = met.iter().map(|index| self.limits[*index].name.as_str()).collect();
            let _ = write!(
                toml,
                "[routes.r{number}]\npath = \"/r{number}\"\nmethods = [\"POST\"]\npool = \"models\"\n\
                 authenticate = \"anonymous\"\nauthorize = \"anonymous\"\nlimits = {names:?}\n\
                 [routes.r{number}.body]\nmax = \"1KiB\"\n"
            );
        }
        toml
    }
}

/// What a run brought.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// Histories.
    pub histories: u64,
    /// Requests that were admitted.
    pub admitted: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// What was done to Redis meanwhile.
    pub faults: u64,
    /// What no model would have decided, with its history.
    pub wrong: Vec<String>,
}

/// What all histories share.
struct World {
    rules: Rules,
    gateways: Vec<SocketAddr>,
    connection: MultiplexedConnection,
    /// Requests hold it together, faults alone: so that it is known what came before them.
    quiet: RwLock<Faults>,
}

/// What was done to Redis so far, and how often that emptied it.
#[derive(Default)]
struct Faults {
    done: u64,
    emptied: u64,
}

/// One window as the history has seen it.
#[derive(Default)]
struct Window {
    /// When, and how many units.
    admitted: Vec<(u64, u64)>,
    /// How many of these Redis has forgotten.
    forgotten: usize,
}

fn used(admitted: &[(u64, u64)], limit: &Limit, at: u64) -> u64 {
    let counts = |entry: &&(u64, u64)| entry.0 + limit.window * SECOND > at;
    admitted.iter().filter(counts).map(|(_, units)| units).sum()
}

impl Window {
    fn used(&self, limit: &Limit, at: u64) -> u64 {
        used(&self.admitted[self.forgotten..], limit, at)
    }

    /// As if Redis had forgotten nothing: refusals are remembered elsewhere.
    fn used_ever(&self, limit: &Limit, at: u64) -> u64 {
        used(&self.admitted, limit, at)
    }

    /// When so many units have room, if nothing else comes.
    fn free_at(&self, limit: &Limit, cost: u64, from: u64) -> u64 {
        let ends = self.admitted.iter().map(|(at, _)| at + limit.window * SECOND);
        let mut times: Vec<u64> = ends.filter(|end| *end > from).collect();
        times.sort_unstable();
        times.into_iter().find(|time| self.used_ever(limit, *time) + cost <= limit.quota).unwrap_or(from)
    }
}

/// Plays so many histories, so many at once.
///
/// # Panics
/// If Redis does not answer.
pub async fn play(
    rules: &Rules,
    gateways: &[SocketAddr],
    redis: &Redis,
    count: u64,
    at_once: usize,
    seed: u64,
) -> Played {
    let client = ::redis::Client::open(format!("redis://{}", redis.address())).expect("a good URL");
    let connection = client.get_multiplexed_async_connection().await.expect("Redis takes connections");
    let world = World { rules: rules.clone(), gateways: gateways.to_vec(), connection, quiet: RwLock::default() };
    let world = Rc::new(world);
    let places = Arc::new(Semaphore::new(at_once));
    let mut playing = JoinSet::new();
    let faults = tokio::task::spawn_local(break_now_and_then(Rc::clone(&world), Chance(seed)));
    let mut played = Played::default();
    for number in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        while let Some(done) = playing.try_join_next() {
            played.add(done.expect("a history ends"));
        }
        let world = Rc::clone(&world);
        playing.spawn_local(async move {
            let _place = place;
            History::new(world, seed.wrapping_add(number.wrapping_mul(0x5851_f42d_4c95_7f2d)), number).play().await
        });
    }
    while let Some(done) = playing.join_next().await {
        played.add(done.expect("a history ends"));
    }
    faults.abort();
    played.faults = world.quiet.read().await.done;
    played
}

async fn break_now_and_then(world: Rc<World>, mut chance: Chance) {
    loop {
        sleep(FAULTS_EVERY).await;
        let fault = FAULTS[chance.place(FAULTS.len())];
        let mut faults = world.quiet.write().await;
        let mut words = fault.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap_or_default());
        words.fold(&mut command, ::redis::Cmd::arg);
        command.exec_async(&mut world.connection.clone()).await.expect("Redis does it");
        faults.done += 1;
        faults.emptied += u64::from(fault == FLUSH);
    }
}

impl Played {
    fn add(&mut self, (admitted, refused, wrong): (u64, u64, Option<String>)) {
        self.histories += 1;
        self.admitted += admitted;
        self.refused += refused;
        self.wrong.extend(wrong);
    }
}

struct History {
    world: Rc<World>,
    chance: Chance,
    tenant: String,
    connections: HashMap<usize, Connection>,
    windows: HashMap<String, Window>,
    emptied: u64,
    told: Vec<String>,
}

/// One limit of a request: itself, the window's name, the cost.
type Met = (Limit, String, u64);

impl History {
    fn new(world: Rc<World>, seed: u64, number: u64) -> Self {
        Self {
            world,
            chance: Chance(seed),
            tenant: format!("t{number}"),
            connections: HashMap::new(),
            windows: HashMap::new(),
            emptied: 0,
            told: Vec::new(),
        }
    }

    async fn play(mut self) -> (u64, u64, Option<String>) {
        let (mut admitted, mut refused) = (0, 0);
        // Most of the requests ask one route, so that its windows fill.
        let favourite = self.chance.place(ROUTES);
        for _ in 0..8 + self.chance.below(8) {
            let route = if self.chance.below(4) > 0 { favourite } else { self.chance.place(ROUTES) };
            let (address, rows) = (self.chance.below(2), 1 + self.chance.below(3));
            self.pause().await;
            match self.ask(route, address, rows).await {
                Ok(true) => admitted += 1,
                Ok(false) => refused += 1,
                Err(why) => {
                    let told = format!(
                        "{}: {why}; {:?} after {}",
                        self.tenant,
                        self.met(route, address, rows),
                        self.told.join(", ")
                    );
                    return (admitted, refused, Some(told));
                }
            }
        }
        (admitted, refused, None)
    }

    /// No time at all, some, or until the very moment when something leaves a window.
    async fn pause(&mut self) {
        let micros = match self.chance.below(4) {
            0 => 0,
            1 => self.chance.below(400_000),
            2 => self.chance.below(30_000),
            _ => {
                let now = self.now().await;
                let limits = &self.world.rules.limits;
                let name = |key: &str| limits.iter().find(|limit| key.split(':').nth(2) == Some(&limit.name));
                let ends = self.windows.iter().filter_map(|(key, window)| Some((name(key)?, window)));
                let ends =
                    ends.flat_map(|(limit, window)| window.admitted.iter().map(|(at, _)| at + limit.window * SECOND));
                let next = ends.filter(|end| *end > now).min().unwrap_or(now);
                (next - now + self.chance.below(4_000)).saturating_sub(2_000)
            }
        };
        sleep(Duration::from_micros(micros)).await;
    }

    async fn now(&self) -> u64 {
        let mut connection = self.world.connection.clone();
        let (seconds, micros): (u64, u64) =
            ::redis::cmd("TIME").query_async(&mut connection).await.expect("Redis tells the time");
        (seconds * SECOND + micros) % WRAP
    }

    fn met(&self, route: usize, address: u64, rows: u64) -> Vec<Met> {
        let limits = self.world.rules.routes[route].iter().map(|index| self.world.rules.limits[*index].clone());
        limits
            .map(|limit| {
                let mut key = format!("{{modelgate}}:x{}:{}:x-tenant={}", limit.window, limit.name, self.tenant);
                if limit.by_address {
                    key.extend([":address=192.0.2.", &address.to_string()]);
                }
                let cost = if limit.counts_rows { rows } else { 1 };
                (limit, key, cost)
            })
            .collect()
    }

    async fn send(&mut self, gateway: usize, route: usize, address: u64, rows: u64) -> Result<Answer, String> {
        let client = Client::http1(self.world.gateways[gateway]);
        let body = serde_json::json!((0..rows).collect::<Vec<_>>());
        let request = client.post(&format!("/r{route}")).json(&body).header("x-tenant", &self.tenant);
        let request = request.header("x-forwarded-for", &format!("192.0.2.{address}"));
        if let std::collections::hash_map::Entry::Vacant(place) = self.connections.entry(gateway) {
            place.insert(client.connect().await);
        }
        self.connections.get_mut(&gateway).expect("it was just made").try_send(request).await
    }

    /// Asks, and holds the answer against the model; whether it was admitted.
    async fn ask(&mut self, route: usize, address: u64, rows: u64) -> Result<bool, String> {
        let world = Rc::clone(&self.world);
        let quiet = world.quiet.read().await;
        if quiet.emptied != self.emptied {
            self.emptied = quiet.emptied;
            for window in self.windows.values_mut() {
                window.forgotten = window.admitted.len();
            }
        }
        let met = self.met(route, address, rows);
        let before = self.now().await;
        let gateway = self.chance.place(world.gateways.len());
        let answer = self.send(gateway, route, address, rows).await?;
        let mut look = ::redis::pipe();
        look.cmd("MGET").arg(met.iter().map(|(_, key, _)| key.as_str()).collect::<Vec<_>>()).cmd("TIME");
        let (kept, (seconds, micros)): (Vec<Option<Vec<u8>>>, (u64, u64)) =
            look.query_async(&mut world.connection.clone()).await.map_err(|error| error.to_string())?;
        drop(quiet);
        let after = (seconds * SECOND + micros) % WRAP;
        self.told.push(format!(
            "[{before}..{after} gateway {gateway} /r{route} address {address} rows {rows}: {}]",
            answer.status
        ));
        let fresh = met.iter().zip(&kept).map(|((_, key, _), kept)| {
            let last = self.windows.get(key).and_then(|window| window.admitted.last()).map_or(0, |(at, _)| *at);
            entries(kept.as_deref().unwrap_or_default()).into_iter().filter(|(at, _)| *at > last).collect()
        });
        let fresh: Vec<Vec<(u64, u64)>> = fresh.collect();
        match answer.status {
            200 => self.admitted(&met, &fresh, before, after).map(|()| true),
            429 | 413 => self.refused(&met, &fresh, &answer, before, after).map(|()| false),
            other => Err(format!("answered with {other}: {}", answer.text())),
        }
    }

    fn admitted(&mut self, met: &[Met], fresh: &[Vec<(u64, u64)>], before: u64, after: u64) -> Result<(), String> {
        let at = fresh.iter().flatten().map(|(at, _)| *at).next();
        for ((limit, key, cost), fresh) in met.iter().zip(fresh) {
            let window = self.windows.entry(key.clone()).or_default();
            match fresh.as_slice() {
                [(time, units)] => {
                    if units != cost || Some(*time) != at || !(before..=after).contains(time) {
                        return Err(format!("{} counted {units} at {time}, where {cost} was asked", limit.name));
                    }
                    let held = window.used(limit, *time);
                    if held + cost > limit.quota {
                        return Err(format!(
                            "{} admitted {cost} at {time} beside {held} of {}",
                            limit.name, limit.quota
                        ));
                    }
                    window.admitted.push((*time, *units));
                }
                [] if limit.is_shadow => {
                    let held = window.used(limit, at.unwrap_or(before));
                    if held + cost <= limit.quota {
                        return Err(format!("{} had room, {held} of {}, and did not count", limit.name, limit.quota));
                    }
                }
                other => return Err(format!("{} counted {other:?}", limit.name)),
            }
        }
        Ok(())
    }

    fn refused(
        &self,
        met: &[Met],
        fresh: &[Vec<(u64, u64)>],
        answer: &Answer,
        before: u64,
        after: u64,
    ) -> Result<(), String> {
        if fresh.iter().any(|fresh| !fresh.is_empty()) {
            return Err(format!("it was refused and counted: {fresh:?}"));
        }
        let nothing = Window::default();
        let full = |(limit, key, cost): &&Met| {
            let window = self.windows.get(key).unwrap_or(&nothing);
            !limit.is_shadow && window.used_ever(limit, before) + cost > limit.quota
        };
        let full: Vec<&Met> = met.iter().filter(full).collect();
        let body = answer.json();
        let named: Vec<&str> =
            body["violated_policies"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        if named.is_empty() || named.iter().any(|name| !full.iter().any(|(limit, _, _)| limit.name == *name)) {
            return Err(format!(
                "it was refused by {named:?}, and full are {:?}",
                full.iter().map(|(limit, _, _)| &limit.name).collect::<Vec<_>>()
            ));
        }
        let is_too_dear = full.iter().any(|(limit, _, cost)| *cost > limit.quota);
        // Before the body is read nobody knows what it costs: what is full for anything says so, and not that it never
        // has room.
        let is_full_too = full.iter().any(|(limit, key, cost)| {
            let window = self.windows.get(key).unwrap_or(&nothing);
            *cost <= limit.quota || window.used_ever(limit, before) + 1 > limit.quota
        });
        if is_too_dear != (answer.status == 413) && !(is_too_dear && is_full_too) {
            return Err(format!("{} has to say that it never has room: {is_too_dear}", answer.status));
        }
        if is_too_dear || self.windows.values().any(|window| window.forgotten > 0) {
            return Ok(());
        }
        // A refusal that is remembered may be that of a cheaper request, and bid come too early, but never too late.
        let named = full.iter().filter(|(limit, _, _)| named.contains(&limit.name.as_str()));
        let free = |cheapest: bool| {
            let each = named.clone().filter_map(|(limit, key, cost)| {
                Some(self.windows.get(key)?.free_at(limit, if cheapest { 1 } else { *cost }, before))
            });
            each.max().unwrap_or(0)
        };
        let seconds = |micros: u64| micros.div_ceil(SECOND).max(1);
        let (least, most) = (seconds(free(true).saturating_sub(after)), seconds(free(false).saturating_sub(before)));
        let told: u64 = answer.header("retry-after").parse().unwrap_or(0);
        if (least..=most).contains(&told) {
            return Ok(());
        }
        Err(format!("it may come again after {told} s, and {least} to {most} would be right"))
    }
}
