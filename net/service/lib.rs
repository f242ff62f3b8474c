//! Services on a node: from Services and EndpointSlices to nftables.
//!
//! ```text
//!   packet ─▶ dispatch ─▶ map services (address . protocol . port) ─▶ svc/NAMESPACE/NAME/PROTOCOL/PORT ─▶ dnat
//!                     └─▶ map node_ports (protocol . port) ─▶ ext/… (marks for masquerade) ─┘
//! ```
//!
//! A packet costs one look-up in a map, however many Services there are; a Service that changes costs its own chain and
//! elements. [`dns`] answers for the names of Services from the same objects; [`zone`] says how, and is pure.
//! [`plan`] is pure; what differs from what was applied last goes to nft as one transaction. [`host_ports`] is for the ports
//! of the node that Pods ask for.

pub mod dns;
pub mod host_ports;
pub mod plan;
pub mod zone;

use skein_nft::Table;

/// The node's table of Service rules.
pub fn table() -> Table {
    Table::new("skein", plan::BASE)
}
