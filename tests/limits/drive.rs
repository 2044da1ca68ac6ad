//! Asks the gateway's own limiter without the gateway: a process of its own, one thread, so many that wait at once.
//!
//! Takes the same words as the peers' drivers and answers as they do: `ready`, then, once told to go on, what came
//! of it.

use std::cell::Cell;
use std::io::{BufRead as _, stdin};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gateway::edge::counter::{Counter, Denied, StoreChange};
use gateway::policy::limit::cost::Size;
use gateway::policy::limit::scope::Subject;
use gateway::policy::limit::{Demand, Limit};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cpu::Tree;
use crate::rules;

/// What a driver is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders {
    pub(crate) keys: u64,
    /// Decisions before those that are measured.
    pub(crate) before: u64,
    pub(crate) decisions: u64,
    pub(crate) quota: u64,
    /// Seconds.
    pub(crate) window: u64,
    /// At once.
    pub(crate) waiting: u64,
}

impl Orders {
    pub(crate) fn words(self, port: u16) -> [String; 7] {
        let Self { keys, before, decisions, quota, window, waiting } = self;
        [u64::from(port), keys, before, decisions, quota, window, waiting].map(|number| number.to_string())
    }

    fn read(words: &[String]) -> Option<(u16, Self)> {
        let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let &[port, keys, before, decisions, quota, window, waiting] = numbers.as_slice() else { return None };
        Some((u16::try_from(port).ok()?, Self { keys, before, decisions, quota, window, waiting }))
    }
}

/// Does as the words say; `None` where they are no orders.
pub(crate) async fn run(words: &[String]) -> Option<()> {
    let (port, orders) = Orders::read(words)?;
    let (limit, store) = rules::one(port, orders.quota, orders.window);
    let tell = |change| {
        if let StoreChange::Lost(cause) = change {
            eprintln!("limits: Redis is lost: {cause}");
        }
    };
    let counter = Counter::new(store, 0, std::slice::from_ref(&limit), tell);
    let driver = Rc::new(Driver { counter, limit, keys: orders.keys });
    driver.ask("warm").await;
    driver.ask_all(orders.before, orders.waiting).await;
    println!("ready");
    let _ = stdin().lock().read_line(&mut String::new());
    let tree = Tree::of(std::process::id());
    let (cpu, clock) = (tree.cpu(), Instant::now());
    let admitted = driver.ask_all(orders.decisions, orders.waiting).await;
    let (seconds, cpu) = (clock.elapsed().as_secs_f64(), tree.cpu().saturating_sub(cpu).as_secs_f64());
    println!("{}", json!({ "admitted": admitted, "seconds": seconds, "cpu": cpu }));
    Some(())
}

struct Driver {
    counter: Counter,
    limit: Arc<Limit>,
    keys: u64,
}

impl Driver {
    async fn ask(&self, principal: &str) -> bool {
        let subject = Subject {
            address: Ipv4Addr::LOCALHOST.into(),
            principal,
            api_key: "",
            role: "",
            route: "",
            model: "",
            pool: "",
            user: "",
            headers: None,
        };
        match self.counter.admit(&[Demand::new(&self.limit, None, Size::default())], &subject).await {
            Ok(_) => true,
            Err(Denied::Full(_)) => false,
            Err(Denied::StoreLost) => panic!("Redis is lost"),
        }
    }

    /// Asks so many times in all, so many at once; gives back how many were admitted.
    async fn ask_all(self: &Rc<Self>, count: u64, waiting: u64) -> u64 {
        let left = Rc::new(Cell::new(count));
        let work = async |driver: Rc<Self>, left: Rc<Cell<u64>>| {
            let mut admitted = 0;
            while let Some(number) = left.get().checked_sub(1) {
                left.set(number);
                admitted += u64::from(driver.ask(&format!("caller-{:05}", number % driver.keys)).await);
            }
            admitted
        };
        let mut working = JoinSet::new();
        for _ in 0..waiting {
            working.spawn_local(work(Rc::clone(self), Rc::clone(&left)));
        }
        working.join_all().await.into_iter().sum()
    }
}
