//! Filters: one file each. A filter returns Kubernetes' reason when the node will not do.
//!
//! What depends on Pods on other nodes is not here but in [`crate::class`].

pub(crate) mod affinity;
mod name;
mod ports;
mod resources;
pub(crate) mod taints;
pub(crate) mod volumes;

use std::borrow::Cow;

use crate::demand::{Demand, Occupant};
use crate::fleet::NodeInfo;

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) texts: Vec<Cow<'static, str>>,
    /// Whether it might do if Pods that are there were gone.
    pub(crate) by_others: bool,
    /// The topology key of the domain that refuses.
    pub(crate) key: Option<String>,
}

impl Refusal {
    /// Nothing that other Pods do will change it.
    pub(crate) fn lasting(text: impl Into<Cow<'static, str>>) -> Self {
        Self { texts: vec![text.into()], by_others: false, key: None }
    }

    pub(crate) fn of_others(text: &'static str) -> Self {
        Self { by_others: true, ..Self::lasting(text) }
    }

    pub(crate) fn of_domain(text: &'static str, key: &str) -> Self {
        Self { key: Some(key.into()), ..Self::of_others(text) }
    }
}

/// Every filter in the order in which Kubernetes runs them; the first refusal counts. Pods in `gone` are not there.
pub(crate) fn check(node: &NodeInfo, demand: &Demand, gone: &[&Occupant]) -> Result<(), Refusal> {
    let runs = |plugin| demand.profile.filters_by(plugin);
    if node.unschedulable && runs("NodeUnschedulable") && !taints::tolerates_unschedulable(demand) {
        return Err(Refusal::lasting("node(s) were unschedulable"));
    }
    if runs("NodeName") {
        name::check(node, demand)?;
    }
    if runs("TaintToleration") {
        taints::check(node, demand)?;
    }
    if runs("NodeAffinity") {
        affinity::check(node, demand)?;
    }
    if runs("NodePorts") {
        ports::check(node, demand, gone)?;
    }
    if runs("NodeResourcesFit") {
        resources::check(node, demand, gone)?;
    }
    volumes::check(node, demand, gone)
}

/// What does not depend on what else runs on the node.
pub(crate) fn belongs(node: &NodeInfo, demand: &Demand) -> bool {
    name::check(node, demand).is_ok() && taints::check(node, demand).is_ok() && affinity::check(node, demand).is_ok()
}
