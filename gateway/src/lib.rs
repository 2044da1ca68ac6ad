//! Modelgate's gateway: the only face that a machine-learning model shows to the outside.
//!
//! A request's journey is in [`journey`], stage by stage. What is decided there lives in [`policy`], pure
//! and one file a question; all I/O lives in [`edge`]. Each line below uses only lines below it:
//!
//! | module | room |
//! | --- | --- |
//! | `config` | loads and checks the configuration, every mistake at once |
//! | `admin` | liveness, readiness and metrics, on a listener of their own |
//! | `reload` | puts a new policy in the place of the old one |
//! | `explain` | the journey without its edges |
//! | `server` | connections: how many, how long, when to stop |
//! | `journey`, `token_endpoint`, `fernet_endpoint`, `credentials`, `limiting`, `answering` | what happens to each request and answer; who sent it, what it uses up |
//! | `exchange`, `client_body` | one request's facts, answer and record; its body |
//! | `listener` | where connections arrive, how many and how long |
//! | `connection_limit` | how many connections one address may hold, and what each may do |
//! | `activity` | what a connection is doing, for its time limits |
//! | `head`, `problem` | heads that can be read in one way; refusals and faults as answers |
//! | `edge` | TLS, keys, counting, workers, records, numbers |
//! | `policy` | the decisions |
//! | `wire`, `frames`, `proxy_protocol` | HTTP/1 octets, HTTP/2 frames and PROXY protocol headers, read strictly |
//! | `deadline`, `wakes` | time limits that cost next to nothing; wake-ups that would find nothing to do |
//! | `series` | counters by name |
//! | `settings` | one table of the configuration |
//! | `types` | the vocabulary |

pub mod activity;
pub mod admin;
pub mod answering;
pub mod client_body;
pub mod config;
pub mod connection_limit;
pub mod credentials;
pub mod deadline;
pub mod edge;
pub mod exchange;
pub mod explain;
pub mod fernet_endpoint;
pub mod frames;
pub mod head;
pub mod journey;
pub mod limiting;
pub mod listener;
pub mod policy;
pub mod problem;
pub mod proxy_protocol;
pub mod reload;
pub mod series;
pub mod server;
pub mod settings;
pub mod token_endpoint;
pub mod types;
pub mod wakes;
pub mod wire;
