//! NodePorts: a host port is free on the node.

use std::ptr;

use super::Refusal;
use crate::demand::{Demand, Occupant};
use crate::fleet::NodeInfo;

pub(super) fn check(node: &NodeInfo, demand: &Demand, gone: &[&Occupant]) -> Result<(), Refusal> {
    let wanted = &demand.occupant.host_ports;
    if wanted.is_empty() {
        return Ok(());
    }
    let there = node.pods.values().filter(|pod| !gone.iter().any(|left| ptr::eq(*left, &***pod)));
    let mut taken = there.flat_map(|pod| &pod.host_ports);
    if taken.any(|port| wanted.contains(port)) {
        return Err(Refusal::of_others("node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}
