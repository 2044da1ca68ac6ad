//! Modelgate's gateway: the only face that a machine-learning model shows to the outside.
//!
//! A request's journey is in [`journey`], stage by stage. What is decided there lives in [`policy`], pure
//! and one file a question; all I/O lives in [`edge`]. Each line below uses only lines below it:
//!
//! | module | room |
//! | --- | --- |
//! | `config` | loads and checks the configuration, every mistake at once |
//! | `admin` | liveness, readiness and metrics, on a listener of their own |
//! | `server` | connections: how many, how long, when to stop |
//! | `journey`, `token_endpoint` | what happens to each request |
//! | `exchange`, `client_body` | one request's facts, answer and record; its body |
//! | `activity` | what a connection is doing, for its time limits |
//! | `head`, `problem` | heads that can be read in one way; refusals and faults as answers |
//! | `edge` | TLS, keys, counting, workers, records, numbers |
//! | `policy` | the decisions |
//! | `wire`, `frames` | HTTP/1 octets, read strictly; HTTP/2 frames, counted |
//! | `settings` | one table of the configuration |
//! | `types` | the vocabulary |

pub mod activity;
pub mod admin;
pub mod client_body;
pub mod config;
pub mod edge;
pub mod exchange;
pub mod frames;
pub mod head;
pub mod journey;
pub mod policy;
pub mod problem;
pub mod server;
pub mod settings;
pub mod token_endpoint;
pub mod types;
pub mod wire;
