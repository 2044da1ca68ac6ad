//! The vocabulary: small values that every other module speaks in.
//!
//! Parsing only. Nothing here reads a clock, a file, a socket or another module of ours.

mod address;
mod certificate;
mod digest;
pub mod octets;
mod principal;
mod rate;
mod request_id;
mod secret;
mod set;
mod time;
mod token_id;

pub use address::{AddressBucket, ClientAddress, Network};
pub use certificate::ClientCertificate;
pub use digest::Sha256;
pub use principal::{Binding, Principal, Scheme};
pub use rate::{Quotas, Rate};
pub use request_id::{RequestId, RequestIds};
pub use secret::Secret;
pub use set::{ClaimRule, ClaimSet, Role, RoleSet, Scope, ScopeSet};
pub use time::Timestamp;
pub use token_id::TokenId;

use std::sync::Arc;

/// The name of a configured thing (route, limit, pool, role): shared, cheap to clone.
pub type Name = Arc<str>;
