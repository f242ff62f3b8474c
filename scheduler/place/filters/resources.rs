//! NodeResourcesFit: what is requested fits into what is left.

use skein_object::quantity::Quantity;

use super::Refusal;
use crate::demand::{Demand, Occupant};
use crate::fleet::NodeInfo;

pub(super) fn check(node: &NodeInfo, demand: &Demand, gone: &[&Occupant]) -> Result<(), Refusal> {
    let mut refusal = Refusal { texts: Vec::new(), by_others: true, key: None };
    for (name, wanted) in &demand.occupant.requests {
        let total = node.allocatable.get(name).copied().unwrap_or(Quantity::ZERO);
        let used = node.requested.get(name).copied().unwrap_or(Quantity::ZERO);
        let freed: i128 = gone.iter().filter_map(|pod| pod.requests.get(name)).map(|amount| amount.milli()).sum();
        if demand.profile.ignores(name) {
            continue;
        }
        if *wanted > Quantity::ZERO && used.milli() - freed + wanted.milli() > total.milli() {
            refusal.texts.push(if name == "pods" { "Too many pods".into() } else { format!("Insufficient {name}").into() });
            refusal.by_others &= *wanted <= total;
        }
    }
    if refusal.texts.is_empty() { Ok(()) } else { Err(refusal) }
}
