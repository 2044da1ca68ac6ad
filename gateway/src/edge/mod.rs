//! All I/O: the only asynchronous code below the journey. Files here do not know each other.

pub mod api_keys;
pub mod counter;
pub mod fetch;
pub mod grants;
pub mod introspection;
pub mod keys;
pub mod log;
pub mod metrics;
pub mod socket;
pub mod tls;
pub mod upstream;
