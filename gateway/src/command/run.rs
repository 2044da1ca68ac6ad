//! `gateway run`.

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::admin::SocketFile;
use gateway::admin::{self, Admin};
use gateway::config::{self, Config, ConfigFile, Disk};
use gateway::connection_limit::Refused;
use gateway::edge::api_keys::{self, ApiKeys, SharedApiKeys};
use gateway::edge::counter::{Counter, SharedStore, StoreChange};
use gateway::edge::grants::{Follower, Grants, SharedGrants};
use gateway::edge::log::{BatchLog, Log, LogWriter};
use gateway::edge::metrics::Metrics;
use gateway::edge::tls::Tls;
use gateway::edge::upstream::{Pool, Probing};
use gateway::exchange::{Core, PasswordRoom, Snapshot};
use gateway::policy::assertion::Assertions;
use gateway::policy::authenticate::seen::SeenTokens;
use gateway::problem::Reason;
use gateway::reload::{Loaded, Reloader, Shared, Source};
use gateway::server::{self, Serving};
use gateway::types::{RequestIds, Timestamp};

/// Runs until a signal says to stop.
pub(crate) fn run(files: &[ConfigFile], terminal: bool) -> Result<(), Failure> {
    let config = Config::load(files, terminal)?;
    let writer = LogWriter::start(config.log, io::stdout()).map_err(|error| Failure::unavailable(error.to_string()))?;
    let outcome = Gateway::start(config, files, &writer.log()).and_then(Gateway::wait);
    writer.finish();
    outcome
}

/// A gateway that serves.
pub(crate) struct Gateway {
    /// Where clients reach it.
    pub(crate) address: SocketAddr,
    runtime: LocalRuntime,
    serving: Serving,
    admin: Admin,
    follower: Follower,
    key_follower: api_keys::Follower,
    admin_listening: admin::Listening,
    socket_file: Option<SocketFile>,
    certificate_check: Duration,
    watch: Option<Duration>,
    /// Those of SIGHUP, for the certificates and for the policy.
    hangups: Option<[Signal; 2]>,
    stop: watch::Sender<bool>,
    log: Log,
}

fn runtime() -> Result<LocalRuntime, Failure> {
    let built = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    built.map_err(|error| Failure::unavailable(error.to_string()))
}

/// The signal that terminals and operators send, as it is heard by two: one for each thing that it asks for.
fn hangups(runtime: &LocalRuntime) -> Result<[Signal; 2], Failure> {
    let _entered = runtime.enter();
    let hear = || signal(SignalKind::hangup()).map_err(|error| Failure::unavailable(error.to_string()));
    Ok([hear()?, hear()?])
}

impl Gateway {
    /// Takes the ports and starts the threads.
    /// `files` are what is read again when the policy is replaced.
    pub(crate) fn start(config: Config, files: &[ConfigFile], log: &Log) -> Result<Self, Failure> {
        let Config { listener, admin, store, pools, policy, watch, fixed, files: read, .. } = config;
        let admin_listener = admin.bind().map_err(|error| busy("admin", admin.address(), &error))?;
        let admin_address = admin_listener.local_addr().map_err(|error| Failure::unavailable(error.to_string()))?;
        let listeners = listener.bind().map_err(|error| busy("listener", listener.address(), &error))?;
        let address = listeners.address;

        let threads = listener.threads();
        let metrics = Arc::new(Metrics::new(Reason::SLUGS, Refused::SLUGS, threads));
        let store_kind = store.kind();
        let store = Arc::new(SharedStore::new(store, threads));
        let grants = Arc::new(SharedGrants::new(Arc::clone(&store)));
        let api_keys = Arc::new(SharedApiKeys::new(Arc::clone(&store)));
        let loaded = Loaded { policy, pools, hsts: listener.hsts, body_pace: listener.body_pace, fixed, files: read };
        let shared = Shared { threads, metrics: Arc::clone(&metrics), store: Arc::clone(&store), log: log.clone() };
        let reloader = Rc::new(Reloader::new(loaded, source(files.to_vec()), shared));
        let passwords = Arc::new(PasswordRoom::new(threads));
        let (stop, stopped) = watch::channel(false);

        // A runtime of its own for everything that is not a request: signals, admin, upkeep.
        let runtime = runtime()?;
        let socket = {
            let _entered = runtime.enter();
            super::admin::make_socket(&admin, admin_address.port(), log)?
        };
        let socket_path = socket.as_ref().map_or_else(|| "off".into(), |(path, _)| path.display().to_string());
        let socket_file = socket.as_ref().map(|(path, _)| SocketFile::of(path));
        let admin_listening = admin.listen(admin_listener, socket);
        let admin = Admin {
            reloader: Rc::clone(&reloader),
            store: Arc::clone(&store),
            api_keys: ApiKeys::new(Arc::clone(&api_keys), None),
            metrics: Arc::clone(&metrics),
            tls: listener.tls(),
            log: log.clone(),
            stop: stopped.clone(),
        };
        let mut follower = Follower::new(Arc::clone(&grants));
        if reloader.now().policy.issuer.is_some() {
            // Before the first request, so that it is known what was revoked. What can't be had is asked for again.
            let _ = runtime.block_on(follower.look(wall_clock()));
        }
        let mut key_follower = api_keys::Follower::new(Arc::clone(&api_keys));
        if reloader.now().policy.authenticator.api_keys().in_redis().is_some() {
            let _ = runtime.block_on(key_follower.look());
        }
        runtime.block_on(reloader.first_cards());
        let core = {
            let (log, stopping) = (log.clone(), stopped.clone());
            move |thread, snapshot: Arc<Snapshot>, before: Option<&Core>| {
                let limits = &*snapshot.policy.limits;
                Core {
                    counter: match before {
                        Some(before) => before.counter.for_policy(thread, limits),
                        None => Counter::new(Arc::clone(&store), thread, limits, store_changes(log.clone())),
                    },
                    pools: snapshot
                        .pools
                        .iter()
                        .map(|pool| Rc::new(Pool::new(pool, thread, before.map_or(&[], |before| &before.pools))))
                        .collect(),
                    log: before.map_or_else(|| BatchLog::new(log.clone()), |before| before.log.clone()),
                    metrics: Arc::clone(&metrics),
                    thread,
                    // What was verified by other keys is verified again.
                    seen_tokens: SeenTokens::default(),
                    assertions: Assertions::default(),
                    grants: Grants::new(Arc::clone(&grants)),
                    api_keys: ApiKeys::new(Arc::clone(&api_keys), snapshot.policy.authenticator.api_keys().in_redis()),
                    ids: before.map_or_else(|| Rc::new(RequestIds::new(seed())), |before| Rc::clone(&before.ids)),
                    passwords: Arc::clone(&passwords),
                    stopping: stopping.clone(),
                    snapshot,
                }
            }
        };
        // Before anybody can know that it runs: a signal that nobody takes ends the process. Where people started it
        // by hand, their terminal's end is its own.
        let hangups = if io::stdout().is_terminal() { None } else { Some(hangups(&runtime)?) };
        let certificate_check = listener.certificate_check;
        let serving = server::serve(&Arc::new(listener), listeners, &stopped, &reloader.snapshots(), core)
            .map_err(|error| Failure::unavailable(error.to_string()))?;
        log.event(
            "listening",
            &[
                ("address", &address.to_string()),
                ("admin", &admin_address.to_string()),
                ("admin_socket", &socket_path),
                ("store", store_kind),
                ("threads", &threads.to_string()),
                ("version", env!("CARGO_PKG_VERSION")),
            ],
        );
        Ok(Self {
            address,
            runtime,
            serving,
            admin,
            follower,
            key_follower,
            admin_listening,
            socket_file,
            certificate_check,
            watch,
            hangups,
            stop,
            log: log.clone(),
        })
    }

    /// A way to stop it from elsewhere.
    pub(crate) fn stopper(&self) -> watch::Sender<bool> {
        self.stop.clone()
    }

    /// Serves until SIGTERM or SIGINT, or until the stopper says so; then finishes what is in flight.
    pub(crate) fn wait(self) -> Result<(), Failure> {
        let Self {
            runtime,
            serving,
            admin,
            follower,
            key_follower,
            admin_listening,
            socket_file: _socket_file,
            certificate_check,
            watch,
            hangups,
            stop,
            log,
            ..
        } = self;
        let wrong = |error: io::Error| Failure::unavailable(error.to_string());
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
            let mut stopped = stop.subscribe();
            let used_keys = admin.api_keys.clone();
            let (reloader, store) = (Rc::clone(&admin.reloader), Arc::clone(&admin.store));
            reloader.refresh_keys();
            reloader.follow_cards();
            let sweep = async move {
                let mut clock = tokio::time::interval(Duration::from_secs(1));
                loop {
                    clock.tick().await;
                    store.sweep();
                }
            };
            let (hangup, policy_hangup) = hangups.map(|[first, second]| (first, second)).unzip();
            tokio::task::spawn_local(renew(Arc::clone(&admin.tls), certificate_check, hangup, log.clone()));
            tokio::task::spawn_local(sweep);
            if let Some(mut hangup) = policy_hangup {
                let reloader = Rc::clone(&reloader);
                tokio::task::spawn_local(async move {
                    while hangup.recv().await.is_some() {
                        reloader.reload("SIGHUP").await;
                    }
                });
            }
            if let Some(every) = watch {
                let reloader = Rc::clone(&reloader);
                tokio::task::spawn_local(async move { reloader.watch(every).await });
            }
            let key_reloader = Rc::clone(&reloader);
            let takes = move || key_reloader.now().policy.authenticator.api_keys().in_redis().is_some();
            let told = takes.clone();
            let mut snapshots = reloader.snapshots();
            tokio::task::spawn_local(async move {
                loop {
                    let probing = Probing::begin(&snapshots.borrow_and_update().pools);
                    let replaced = snapshots.changed().await;
                    drop(probing);
                    if replaced.is_err() {
                        break;
                    }
                }
            });
            let issues = move || reloader.now().policy.issuer.is_some();
            tokio::task::spawn_local(follower.follow(
                wall_clock,
                issues,
                changes(&log, "revocations-known", "revocations-unknown"),
            ));
            tokio::task::spawn_local(key_follower.follow(takes, changes(&log, "api-keys-known", "api-keys-unknown")));
            tokio::task::spawn_local(admin::serve(admin, admin_listening));
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = stopped.wait_for(|stop| *stop) => "",
            };
            stop.send_replace(true);
            log.event("stopping", &[("signal", signal)]);
            // Liveness and readiness are answered while requests finish.
            let finished = tokio::task::spawn_blocking(move || serving.join());
            finished.await.map_err(|error| Failure::unavailable(error.to_string()))?.map_err(wrong)?;
            if told() {
                used_keys.tell_uses().await;
            }
            Ok::<(), Failure>(())
        })?;
        log.event("stopped", &[]);
        Ok(())
    }
}

/// Why a port can't be had.
fn busy(what: &str, address: SocketAddr, error: &io::Error) -> Failure {
    Failure::unavailable(match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the {what} port {address} is in use by another program\n  help: stop it, or choose another port (`{what}.address`, or GATEWAY_{}__ADDRESS)",
            what.to_uppercase()
        ),
        _ => format!("the {what} port {address} can't be had: {error}"),
    })
}

/// Reads the same files again.
fn source(files: Vec<ConfigFile>) -> Source {
    let load = move || {
        let config = Config::load(&files, false).map_err(|error| error.0)?;
        let Config { listener, pools, policy, fixed, files, .. } = config;
        Ok(Loaded { policy, pools, hsts: listener.hsts, body_pace: listener.body_pace, fixed, files })
    };
    Source { load: Arc::new(load), look: config::stamp }
}

/// Where the names of a thread's requests begin.
fn seed() -> [u8; 16] {
    let mut seed = [0; 16];
    // Without randomness names would repeat after a restart, and nothing worse.
    let _ = rand::fill(&mut seed);
    seed
}

fn wall_clock() -> Timestamp {
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Records when it is not known which tokens were revoked or which keys were changed, and when it is again.
fn changes(log: &Log, known: &'static str, unknown: &'static str) -> impl Fn(Result<(), &str>) + use<> {
    let log = log.clone();
    move |change| match change {
        Ok(()) => log.event(known, &[]),
        Err(why) => log.event(unknown, &[("cause", why)]),
    }
}

/// Records when the store is lost or back.
fn store_changes(log: Log) -> impl Fn(StoreChange) {
    move |change| match change {
        StoreChange::Lost(why) => log.event("store-lost", &[("cause", &why)]),
        StoreChange::Back => log.event("store-back", &[]),
    }
}

/// Takes new certificates when their files have changed: looks at them now and then, and when SIGHUP asks.
async fn renew(tls: Arc<Tls>, every: Duration, mut hangup: Option<Signal>, log: Log) {
    let mut asked = false;
    loop {
        let tls = Arc::clone(&tls);
        // A disk that does not answer must not hold what else runs here.
        let check = tokio::task::spawn_blocking(move || tls.reload(&Disk, SystemTime::now()));
        let (changed, events) = check.await.unwrap_or_default();
        for event in events {
            let fields: Vec<_> = event.fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
            log.event(event.name, &fields);
        }
        if asked {
            log.event("reloaded", &[("signal", "SIGHUP"), ("changed", &changed.to_string())]);
        }
        // Gateways that were started together look at a shared disk one after the other.
        let mut chance = [0];
        let _ = rand::fill(&mut chance);
        let pause = every.mul_f64(0.9 + f64::from(chance[0]) / 1280.0);
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        asked = tokio::time::timeout(pause, hung_up).await.is_ok();
    }
}
