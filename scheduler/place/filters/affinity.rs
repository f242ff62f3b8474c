//! NodeAffinity: nodeSelector and the required terms of nodeAffinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use skein_object::selector::Selector;

use super::Refusal;
use crate::demand::Demand;
use crate::fleet::NodeInfo;

pub(crate) fn check(node: &NodeInfo, demand: &Demand) -> Result<(), Refusal> {
    if matches(node, demand) { Ok(()) } else { Err(Refusal::lasting("node(s) didn't match Pod's node affinity/selector")) }
}

fn matches(node: &NodeInfo, demand: &Demand) -> bool {
    let spec = &demand.spec;
    if let Some(selector) = &spec.node_selector
        && !Selector::from_map(selector).matches(&node.labels)
    {
        return false;
    }
    let own = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let all = own.into_iter().chain([&demand.profile.added_affinity]);
    let mut required = all.filter_map(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.all(|required| required.node_selector_terms.iter().any(|term| matches_term(node, term)))
}

/// A term is a conjunction; an empty one matches nothing.
pub(crate) fn matches_term(node: &NodeInfo, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_name = BTreeMap::from([("metadata.name".to_string(), node.name.clone())]);
    let holds = |r: &NodeSelectorRequirement, labels| {
        Selector::from_expression(&r.key, &r.operator, r.values.as_deref().unwrap_or_default()).matches(labels)
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, &node.labels))
        && fields.iter().all(|r| holds(r, &by_name))
}
