//! One node of a Mille cluster.
//!
//! Layers, each of which a request passes once on its way down and once on its way up:
//!
//! ```text
//!   gateway   transport, identity, codes
//!   project   the per-project actor: asks the core, performs
//!   bridge    one subscription, fanned out to feeds
//!   backend   ports; redis or embedded
//! ```
//!
//! [`node::Node`] puts them together; `config` is the only reader of the environment.

pub mod backend;
pub mod beat;
pub mod bridge;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod crypto;
pub mod drain;
pub mod gateway;
pub mod metrics;
pub mod node;
pub mod pressure;
pub mod project;
pub mod quiet;
pub mod quota;
pub mod shutdown;
pub mod telemetry;
pub mod traces;
pub mod vigil;
