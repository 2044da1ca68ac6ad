//! The ways to Redis: TLS, ACL users, sockets, Sentinels and Clusters. Limits are shared exactly on each of them,
//! and what goes wrong on the way is a lost store with its cause.

use harness::redis::sentinels::{MASTER, PASSWORD, SENTINEL_PASSWORD};
use harness::redis::valkey;
use harness::{Answer, Cluster, Gateway, GatewayBuilder, Recorder, Redis, Sentinels, TestCa, eventually};

/// What a principal may ask in a window.
const QUOTA: usize = 5;
const POLICY: &str = r#"
[limits.shared]
quota = 5
window = "60s"
by = ["principal"]
store_lost = "deny"
[routes.known]
limits = ["shared"]
"#;

/// Gateways before one worker, with the same store.
struct World {
    worker: Recorder,
    gateways: Vec<Gateway>,
}

impl World {
    async fn new(store: &str, prepare: impl Fn(GatewayBuilder) -> GatewayBuilder) -> Self {
        let (worker, mut gateways) = (Recorder::start(), Vec::new());
        for _ in 0..2 {
            gateways.push(gateway(&worker, store, &prepare).start().await);
        }
        Self { worker, gateways }
    }

    async fn ask(&self, gateway: usize, principal: &str) -> Answer {
        ask(&self.gateways[gateway], principal).await
    }

    /// Uses up a principal's quota, beyond what `used` of it is gone, on all gateways in turn.
    async fn assert_exact(&self, principal: &str, used: usize) {
        for number in used..QUOTA {
            let answer = self.ask(number % 2, principal).await;
            let log = || self.gateways[number % 2].log().text();
            assert_eq!(answer.status, 200, "{principal}, {number}: {}\n{}", answer.text(), log());
            let left = format!("\"shared\";r={};", QUOTA - number - 1);
            assert!(answer.header("ratelimit").starts_with(&left), "{}", answer.header("ratelimit"));
        }
        for gateway in 0..2 {
            self.ask(gateway, principal).await.assert_problem(429, "limit-exceeded");
        }
    }

    /// Asks until the store is back, on every gateway. How many requests were admitted.
    async fn assert_back(&self, principal: &str) -> usize {
        let mut admitted = 0;
        for gateway in 0..2 {
            admitted += eventually("the store is found again", async || {
                let status = self.ask(gateway, principal).await.status;
                (status != 503).then_some(usize::from(status == 200))
            })
            .await;
            self.gateways[gateway].log().event("store-back").await;
        }
        admitted
    }

    /// How often a store was lost.
    fn losses(&self) -> usize {
        self.gateways.iter().map(|gateway| gateway.log().matching(|line| line["event"] == "store-lost").len()).sum()
    }

    /// Nothing of what was secret was printed.
    fn assert_silent(&self, secret: &str) {
        for gateway in &self.gateways {
            assert!(!gateway.log().text().contains(secret), "{}", gateway.log().text());
        }
    }
}

async fn ask(gateway: &Gateway, principal: &str) -> Answer {
    gateway.client().get("/known").key(principal).send().await
}

/// A gateway with this in `[store]`. One thread, so that what one request found holds for the next.
fn gateway(worker: &Recorder, store: &str, prepare: impl Fn(GatewayBuilder) -> GatewayBuilder) -> GatewayBuilder {
    let store = format!("[listener]\nthreads = 1\n[store]\nkind = \"redis\"\ntimeout = \"1s\"\n{store}");
    prepare(Gateway::builder().worker(worker).policy(POLICY).policy(store))
}

/// A gateway that can't reach its store says so to the client, and the cause to the log.
async fn assert_lost(store: &str, prepare: impl Fn(GatewayBuilder) -> GatewayBuilder, cause: &str) {
    let worker = Recorder::start();
    let gateway = gateway(&worker, store, prepare).start().await;
    ask(&gateway, "reader").await.assert_problem(503, "limit-store-lost");
    worker.assert_untouched();
    let lost = gateway.log().event("store-lost").await;
    let told = lost["cause"].as_str().unwrap_or_default();
    assert!(told.contains(cause), "{cause:?} is not told, but {told:?}");
    assert!(!gateway.log().text().contains("canary"), "{}", gateway.log().text());
}

/// The command for the smallest ACL user that works, as the README says it.
pub(crate) fn acl_user(password: &str) -> String {
    let readme = include_str!("../../README.md");
    let line = readme.lines().map(str::trim).find(|line| line.starts_with("ACL SETUSER modelgate "));
    line.expect("the README has it").replace("PASSWORD", password)
}

const ACL: &str = "username = \"modelgate\"\npassword = { env = \"REDIS_PASSWORD\" }\n";
const ACL_PASSWORD: &str = "canary-of-the-acl";

fn with_password(builder: GatewayBuilder) -> GatewayBuilder {
    builder.variable("REDIS_PASSWORD", ACL_PASSWORD)
}

const TLS: &str = "ca = \"redis-ca.pem\"\ncertificate = \"client.pem\"\nprivate_key = { file = \"client.key\" }\n";

/// With the files that [`TLS`] names.
fn with_certificates(builder: GatewayBuilder) -> GatewayBuilder {
    // With a name of its own: OpenSSL takes whoever is called as its issuer for its own issuer.
    let client = TestCa::shared().issue(&["gateway.internal"], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "gateway.internal");
    });
    let builder = builder.file("redis-ca.pem", &TestCa::shared().authority).file("client.pem", client.certificate);
    builder.file("client.key", client.private_key)
}

fn secured(builder: GatewayBuilder) -> GatewayBuilder {
    with_password(with_certificates(builder))
}

#[tokio::test]
async fn over_tls_with_client_certificates_a_limit_is_exact() {
    let certificate = TestCa::shared().issue(&["localhost"], |_| {});
    let redis = Redis::builder().tls(&certificate, true).start().await;
    let world = World::new(&format!("url = \"{}\"\n{TLS}", redis.url()), with_certificates).await;
    world.assert_exact("reader", 0).await;
    assert_eq!((world.worker.seen().len(), world.losses()), (QUOTA, 0));
    // What is shared is what was given to Redis: a gateway without TLS sees it too.
    let plain = World::new(&format!("url = \"redis://{}\"\n", redis.address()), |builder| builder).await;
    plain.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
}

#[tokio::test]
async fn whoever_is_not_proven_to_be_redis_is_a_lost_store() {
    let certificate = TestCa::shared().issue(&["localhost"], |_| {});
    let redis = Redis::builder().tls(&certificate, true).start().await;
    let url = format!("url = \"{}\"\n", redis.url());
    let mut stranger = rcgen::CertificateParams::default();
    stranger.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let stranger = stranger.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem();
    let of_a_stranger = |builder| with_certificates(builder).file("redis-ca.pem", &stranger);
    assert_lost(&format!("{url}{TLS}"), of_a_stranger, "invalid peer certificate").await;
    let other_name = format!("{url}{TLS}server_name = \"redis.internal\"\n");
    assert_lost(&other_name, with_certificates, "not valid for name").await;
    let by_address = format!("{}{TLS}", url.replace("localhost", "127.0.0.1"));
    assert_lost(&by_address, with_certificates, "not valid for name").await;
    assert_lost(&format!("{url}ca = \"redis-ca.pem\"\n"), with_certificates, "CertificateRequired").await;
    // The name that is expected can be another than the address.
    let named = format!("{by_address}server_name = \"localhost\"\n");
    let world = World::new(&named, with_certificates).await;
    world.assert_exact("reader", 0).await;
}

#[tokio::test]
async fn an_acl_user_with_the_least_rights_is_enough() {
    let redis = Redis::start().await;
    redis.tell(&acl_user(ACL_PASSWORD));
    redis.tell("ACL SETUSER default off");
    let url = format!("url = \"{}\"\n", redis.url());
    let world = World::new(&format!("{url}{ACL}"), with_password).await;
    world.assert_exact("reader", 0).await;
    assert_eq!(world.losses(), 0);
    world.assert_silent("canary");
    let wrong = |builder: GatewayBuilder| builder.variable("REDIS_PASSWORD", "canary-that-is-wrong");
    assert_lost(&format!("{url}{ACL}"), wrong, "WRONGPASS").await;
    assert_lost(&url, |builder| builder, "NOAUTH").await;
    // Its keys are its own.
    assert_lost(&format!("{url}{ACL}prefix = \"other\"\n"), with_password, "NoPerm").await;
}

#[tokio::test]
async fn a_socket_and_the_number_of_a_database_are_ways_too() {
    let redis = Redis::builder().setting("unixsocket", "redis.sock").start().await;
    let socket = redis.directory().join("redis.sock");
    let store = format!("url = \"unix://{}?db=3\"\n", socket.display());
    let world = World::new(&store, |builder| builder).await;
    world.assert_exact("reader", 0).await;
    let by_port = World::new(&format!("url = \"{}/3\"\n", redis.url()), |builder| builder).await;
    by_port.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
    let elsewhere = World::new(&format!("url = \"{}\"\n", redis.url()), |builder| builder).await;
    elsewhere.assert_exact("reader", 0).await;
}

#[tokio::test]
async fn a_replica_is_a_lost_store_that_says_why() {
    let master = Redis::builder().setting("repl-diskless-sync-delay", "0").start().await;
    let replica = Redis::builder().setting("replicaof", &master.address().replace(':', " ")).start().await;
    let url = format!("url = \"{}\"\n", replica.url());
    assert_lost(&url, |builder| builder, "read only replica").await;
    // Once it is a master, it is found without more ado.
    let world = World::new(&url, |builder| builder).await;
    world.ask(0, "reader").await.assert_problem(503, "limit-store-lost");
    world.ask(1, "reader").await.assert_problem(503, "limit-store-lost");
    replica.tell("REPLICAOF NO ONE");
    let admitted = world.assert_back("reader").await;
    world.assert_exact("reader", admitted).await;
}

#[tokio::test]
async fn the_master_that_sentinels_name_counts_and_its_successor_after_it() {
    let mut sentinels = Sentinels::start().await;
    sentinels.tell(&acl_user(ACL_PASSWORD));
    let urls = sentinels.urls();
    let store = format!(
        "sentinels = {urls:?}\nmaster = \"{MASTER}\"\nsentinel_password = {{ env = \"SENTINEL_PASSWORD\" }}\n{ACL}{TLS}"
    );
    let prepare = |builder| secured(builder).variable("SENTINEL_PASSWORD", SENTINEL_PASSWORD);
    let world = World::new(&store, prepare).await;
    world.assert_exact("reader", 0).await;
    assert_eq!(world.losses(), 0);
    // Two are enough to agree, and one that is gone is passed over.
    sentinels.kill_sentinel(2);
    let last_first: Vec<_> = urls.iter().rev().collect();
    let other = World::new(&store.replace(&format!("{urls:?}"), &format!("{last_first:?}")), prepare).await;
    other.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
    assert_eq!(other.losses(), 0);

    sentinels.master.kill();
    for gateway in 0..2 {
        world.ask(gateway, "predictor").await.assert_problem(503, "limit-store-lost");
    }
    let admitted = world.assert_back("predictor").await;
    world.assert_exact("predictor", admitted).await;
    // What the replica had been passed still counts.
    world.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
    for secret in [ACL_PASSWORD, SENTINEL_PASSWORD, PASSWORD] {
        world.assert_silent(secret);
    }

    let wrong = |builder: GatewayBuilder| prepare(builder).variable("SENTINEL_PASSWORD", "canary");
    assert_lost(&store, wrong, "WRONGPASS").await;
    assert_lost(&store.replace(MASTER, "other"), prepare, "no master by the name \"other\"").await;
}

#[tokio::test]
async fn in_a_cluster_the_owner_of_our_slot_counts() {
    let mut cluster = Cluster::start().await;
    for index in 0..3 {
        cluster.node(index).tell(&acl_user(ACL_PASSWORD));
    }
    let slot = cluster.slot("{modelgate}");
    let owner = Cluster::owner(slot);
    let (target, third) = ((owner + 1) % 3, (owner + 2) % 3);
    // Any of them leads to the owner, and who is not there or is in no Cluster is passed over.
    let certificate = TestCa::shared().issue(&["localhost"], |_| {});
    let lone = Redis::builder().setting("cluster-enabled", "yes").tls(&certificate, true).start().await;
    lone.tell(&acl_user(ACL_PASSWORD));
    let seeds = ["rediss://127.0.0.1:9".to_owned(), lone.url(), cluster.urls()[target].clone()];
    let world = World::new(&format!("cluster = {seeds:?}\n{ACL}{TLS}"), secured).await;
    world.assert_exact("reader", 0).await;

    // The slot moves to another node while it is used: before, between, and after its keys.
    cluster.begin_move(slot, owner, target);
    world.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
    for gateway in 0..2 {
        assert_eq!(world.ask(gateway, "predictor").await.status, 200, "a new window is sent ahead");
    }
    cluster.move_keys(slot, owner, target);
    world.ask(1, "reader").await.assert_problem(429, "limit-exceeded");
    cluster.end_move(slot, owner, target);
    world.ask(0, "reader").await.assert_problem(429, "limit-exceeded");
    world.assert_exact("predictor", 2).await;
    assert_eq!(world.losses(), 0);

    // Who is not the owner may die.
    cluster.kill(third);
    world.assert_exact("second", 0).await;
    // Who begins with a node that refuses, finds another.
    cluster.refuse_without_all_slots(owner).await;
    let seeds = [&cluster.urls()[owner], &cluster.urls()[target]];
    let other = World::new(&format!("cluster = {seeds:?}\n{ACL}{TLS}"), secured).await;
    for gateway in 0..2 {
        let found = eventually("a node that takes calls is found", async || {
            Some(other.ask(gateway, "second").await).filter(|answer| answer.status != 503)
        });
        found.await.assert_problem(429, "limit-exceeded");
    }
    cluster.kill(owner);
    world.ask(0, "second").await.assert_problem(429, "limit-exceeded");
    assert_eq!(world.losses(), 0);
    world.assert_silent("canary");
}

#[tokio::test]
async fn a_server_without_a_cluster_is_none() {
    let redis = Redis::start().await;
    assert_lost(&format!("cluster = [\"{}\"]\n", redis.url()), |builder| builder, "cluster support disabled").await;
}

#[tokio::test]
async fn valkey_counts_as_redis_does() {
    let Some(program) = valkey() else { return };
    let redis = Redis::builder().valkey(program).start().await;
    redis.tell(&acl_user(ACL_PASSWORD));
    let url = redis.url().replace("redis", "valkey");
    let world = World::new(&format!("url = \"{url}\"\n{ACL}"), with_password).await;
    world.assert_exact("reader", 0).await;
    redis.flush_scripts();
    world.assert_exact("predictor", 0).await;
    assert_eq!(world.losses(), 0);
}
