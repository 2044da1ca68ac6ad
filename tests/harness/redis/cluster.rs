//! A Cluster of three masters without replicas, which speak TLS with each other and with clients.

use redis::Value;

use super::{Redis, ask_text, free_port, node_certificate};
use crate::eventually;

/// Three masters, each with a third of the slots.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts one, and waits until every node says that it is whole.
    ///
    /// # Panics
    /// If it does not become whole.
    pub async fn start() -> Self {
        let (mut nodes, certificate) = (Vec::new(), node_certificate());
        for (index, (first, last)) in [(0, 5_460), (5_461, 10_922), (10_923, 16_383)].into_iter().enumerate() {
            let node = Redis::builder()
                .tls(&certificate, true)
                .setting("tls-cluster", "yes")
                .setting("cluster-enabled", "yes")
                .setting("cluster-port", &free_port().to_string())
                .setting("cluster-node-timeout", "1000")
                // The slots of a node that dies are missing, and the others go on.
                .setting("cluster-require-full-coverage", "no")
                .start()
                .await;
            node.tell(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            node.tell(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
            nodes.push(node);
        }
        let bus = |node: &Redis| -> String {
            let port: Vec<String> = redis::from_redis_value(node.ask("CONFIG GET cluster-port")).expect("a port");
            port[1].clone()
        };
        for other in &nodes[1..] {
            nodes[0].tell(&format!("CLUSTER MEET {} {}", other.tls_address().replace(':', " "), bus(other)));
        }
        for node in &nodes {
            eventually("the Cluster is whole", async || {
                let text = ask_text(&node.address(), None, "CLUSTER INFO")?;
                let whole = ["cluster_state:ok", "cluster_known_nodes:3", "cluster_slots_ok:16384"];
                whole.iter().all(|line| text.contains(line)).then_some(())
            })
            .await;
        }
        Self { nodes }
    }

    /// The URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// One of the nodes.
    #[must_use]
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// Makes one of the nodes refuse everything while a slot is missing, and waits until it does.
    pub async fn refuse_without_all_slots(&self, index: usize) {
        let node = &self.nodes[index];
        node.tell("CONFIG SET cluster-require-full-coverage yes");
        eventually("the node finds that slots are missing", async || {
            ask_text(&node.address(), None, "CLUSTER INFO")?.contains("cluster_state:fail").then_some(())
        })
        .await;
    }

    /// Ends one of the nodes at once.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: &str) -> u16 {
        redis::from_redis_value(self.nodes[0].ask(&format!("CLUSTER KEYSLOT {key}"))).expect("a slot")
    }

    /// The node that holds a slot at the start.
    #[must_use]
    pub fn owner(slot: u16) -> usize {
        usize::from(slot > 5_460) + usize::from(slot > 10_922)
    }

    fn id(&self, index: usize) -> String {
        redis::from_redis_value(self.nodes[index].ask("CLUSTER MYID")).expect("an id")
    }

    /// Begins to move a slot: what has no key there is sent ahead from now on.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        self.nodes[to].tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.id(from)));
        self.nodes[from].tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.id(to)));
    }

    /// Moves every key of the slot.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let keys = self.nodes[from].ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        let keys: Vec<String> = redis::from_redis_value(keys).expect("keys");
        assert!(!keys.is_empty(), "nothing is moved");
        let target = self.nodes[to].tls_address();
        let (host, port) = target.split_once(':').expect("an address");
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg(host).arg(port).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
        let moved: Value = migrate.query(&mut self.nodes[from].connect()).expect("keys can be moved");
        assert_eq!(moved, Value::Okay);
    }

    /// Ends the move: the slot belongs to the other node.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let id = self.id(to);
        let third = 3 - from - to;
        for node in [to, from, third] {
            self.nodes[node].tell(&format!("CLUSTER SETSLOT {slot} NODE {id}"));
        }
    }
}
