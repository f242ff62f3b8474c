//! The Pod network: an address for every Pod that Pods on every other node reach without NAT.
//!
//! ```text
//!   Pod eth0 10.244.1.7/32 ── default via 169.254.1.1 ──▶ skp… on the node (answers ARP for it)
//!   node: 10.244.1.7/32 dev skp…      10.244.2.0/24 via node-2's address, or through a tunnel      …
//! ```
//!
//! [`cni`] is the plugin that the container runtime calls for each Pod; [`policy`] says which packets pass; [`routes`] are
//! the ways to the other nodes' ranges; [`egress`] is the way out.

pub mod cni;
pub mod egress;
pub mod netlink;
pub mod policy;
pub mod routes;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("network configuration: {0}")]
    Config(String),
    #[error("{0:?} is not a range like 10.244.1.0/24")]
    Range(String),
    #[error("no address is free in {0}")]
    Full(String),
}
