//! What a limit adds to a request of a real gateway, with 64 at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::client::tls_config;
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::cpu::Tree;
use crate::gateways::Running;
use crate::load::{Load, Shape};
use crate::server::{Done, OTHER_CORE, Server};
use crate::session::Request;
use crate::worker::Worker;

const SHAPE: Shape = Shape { connections: 64, streams: 1, reconnect: false, rate: None };
const TENANTS: usize = 2_000;
const STRETCH: Duration = Duration::from_secs(2);

/// Processor time of the gateway in µs, and requests a second.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) without: [f64; 2],
    pub(crate) in_memory: [f64; 2],
    pub(crate) in_redis: [f64; 2],
    /// For each request.
    pub(crate) round_trips: f64,
    pub(crate) redis_micros: f64,
}

impl Cost {
    pub(crate) fn added(&self) -> f64 {
        self.in_redis[0] - self.without[0]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "without": self.without, "in_memory": self.in_memory, "in_redis": self.in_redis,
            "round_trips": self.round_trips, "redis_micros": self.redis_micros,
        })
    }
}

const POLICY: &str = r#"
[listener]
threads = 1
[client_address]
trusted_proxies = ["127.0.0.1"]
[limits.calls]
quota = 1000
window = "60s"
by = ["header:x-tenant"]
store_lost = "deny"
[routes.open]
path = "/open"
methods = ["GET"]
pool = "models"
authenticate = "anonymous"
authorize = "anonymous"
"#;

struct Target {
    gateway: Running,
    load: Load,
}

impl Target {
    fn start(worker: &Worker, limit: &str) -> Self {
        let pool = format!("[pools.models]\nworkers = [\"http://{}\"]\n", worker.address);
        let gateway = Running::start(&[pool, POLICY.to_owned(), limit.to_owned()], Some(OTHER_CORE));
        let requests: Vec<Request> = (0..TENANTS)
            .map(|tenant| Request {
                method: "GET",
                path: "/open",
                fields: vec![("x-tenant", format!("tenant-{tenant:05}"))],
                body: Vec::new(),
            })
            .collect();
        let tls: Arc<ClientConfig> = Arc::new(tls_config(&["http/1.1"], &[]));
        let load = Load::new(gateway.address, tls, SHAPE, &requests);
        Self { gateway, load }
    }

    /// Goes on for a while; the gateway's µs for each request, requests a second, and how many there were.
    fn stretch(&mut self) -> ([f64; 2], u64) {
        self.load.run(STRETCH.mul_f64(0.2));
        let tree = Tree::of(self.gateway.id());
        let (cpu, begin) = (tree.cpu(), Instant::now());
        let tally = self.load.run(STRETCH);
        let (cpu, elapsed) = (tree.cpu().saturating_sub(cpu), begin.elapsed());
        let requests = tally.requests();
        let good = tally.statuses.get(&200).copied().unwrap_or(0);
        assert!(good > 0 && good * 1000 >= requests * 999, "answers were {:?}", tally.statuses);
        let requests_f = requests as f64;
        ([cpu.as_secs_f64() * 1e6 / requests_f, requests_f / elapsed.as_secs_f64()], requests)
    }
}

pub(crate) fn measure(server: &Server, rounds: usize) -> Cost {
    let worker = Worker::start();
    let (none, limit) = ("[routes.open]\nlimits = []\n", "[routes.open]\nlimits = [\"calls\"]\n");
    let redis = format!("{limit}[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\n", server.port);
    let mut targets = [none, limit, &redis].map(|limit| Target::start(&worker, limit));
    let mut samples: [Vec<[f64; 2]>; 3] = Default::default();
    let (mut asked, mut done) = (0, Done::default());
    let mut connection = server.connect();
    for _ in 0..rounds {
        for (index, (target, samples)) in targets.iter_mut().zip(&mut samples).enumerate() {
            server.empty();
            let before = server.done(&mut connection);
            let (sample, requests) = target.stretch();
            let since = server.done(&mut connection).since(before);
            samples.push(sample);
            if index == 2 {
                // The stretch before the count is in it.
                asked += requests + (requests as f64 * 0.2) as u64;
                done.calls += since.calls;
                done.cpu += since.cpu;
            }
        }
    }
    let [without, in_memory, in_redis] = samples.map(|mut samples| {
        samples.sort_by(|one, other| one[0].total_cmp(&other[0]));
        samples[samples.len() / 2]
    });
    let asked = asked as f64;
    let (round_trips, redis_micros) = (done.calls as f64 / asked, done.cpu.as_secs_f64() * 1e6 / asked);
    Cost { without, in_memory, in_redis, round_trips, redis_micros }
}
