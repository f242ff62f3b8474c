//! One QUIC endpoint per node, for everything between nodes. It knows nothing of Raft.
//!
//! ```text
//!   Endpoint::open(peer, channel) ──▶ Stream ═══ QUIC, mutual TLS ═══▶ Endpoint::accept() ──▶ (peer's name, channel, Stream)
//! ```
//!
//! A peer is who its certificate says, never where its packets come from: each node's certificate names the node and is
//! signed by the cluster's CA, and both sides check. There is one connection per pair and direction; streams share it.

pub mod authority;
mod endpoint;
mod issued;
mod request;
mod tasks;

pub use authority::{Authority, Identity, Subject};
pub use endpoint::{Endpoint, Incoming, Options, Stream};
pub use issued::{Flaw, Issued, Proof};
pub use request::{Names, SigningRequest};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}/udp: {source}")]
    Bind { address: std::net::SocketAddr, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("the key of the CA that signs is not among the keys")]
    NotHeld,
    #[error("cannot reach {peer} at {address}: {why}")]
    Unreachable { peer: String, address: String, why: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(std::io::ErrorKind::NotConnected, error)
    }
}
