//! Trains small models and serves their predictions over HTTP on a private network.
//!
//! The worker knows no consumers and checks no permissions: whoever can reach it may ask it, unless it is told to ask for
//! the gateway's certificate or signature. That is why it refuses to listen on a public address unless told to, and why
//! a gateway belongs in front of it.
//!
//! Each module may use only those below it:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`server`] | connections: how many, how long, when to stop |
//! | [`listen`] | which addresses are allowed, and binding them |
//! | [`tls`] | the worker's certificate, and whose certificates it asks for |
//! | [`offline`] | predicting, measuring and timing without serving |
//! | [`api`] | one request: route, read, validate, predict, answer; `/predict`, Open Inference Protocol over REST and gRPC |
//! | [`guard`] | whether the gateway vouches for a request |
//! | [`body`] | a request's JSON, doubled members included |
//! | [`problem`] | every refusal and its status code, the one place that knows them |
//! | [`queue`] | how many requests at once |
//! | [`events`] | one JSON line for each thing an operator may want to know |
//! | [`train`] | data in, artifact out |
//! | [`report`] | a card for people |
//! | [`catalog`] | the models of a directory, and which version answers |
//! | [`metrics`] | what is counted |
//! | [`model`] | artifacts, and the models that they hold |
//! | [`config`] | settings |
//! | [`failure`] | why the process ends, and with which exit code |

pub mod api;
pub mod body;
pub mod catalog;
pub mod config;
pub mod events;
pub mod failure;
pub mod guard;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod offline;
pub mod problem;
pub mod queue;
pub mod report;
pub mod server;
pub mod tls;
pub mod train;
