//! NodeName: a Pod that names its node goes nowhere else.

use super::Refusal;
use crate::demand::Demand;
use crate::fleet::NodeInfo;

pub(super) fn check(node: &NodeInfo, demand: &Demand) -> Result<(), Refusal> {
    match demand.spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if name != node.name => Err(Refusal::lasting("node(s) didn't match the requested node name")),
        _ => Ok(()),
    }
}
