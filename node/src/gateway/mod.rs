//! The gateway: transport, identity and codes. What comes in is recognised, bounded and handed to the project; what goes
//! out is framed and flushed. Nothing here knows how a plan or a roster works.

pub mod auth;
mod certificate;
pub mod crowded;
pub mod errors;
pub mod facts;
pub mod fanout;
pub mod graphql;
mod intake;
pub mod listener;
mod observer;
pub mod origins;
pub mod presence;
pub mod probes;
pub mod router;
pub mod shedding;
mod stall;
pub mod strangers;
pub mod tls;
pub mod transport;
pub mod welcome;
