//! Amounts of resources: sums of them, and what a Pod asks for as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::names::qualified_name;
use crate::quantity::Quantity;

pub type Amounts = BTreeMap<String, Quantity>;

/// In Kubernetes' own domain, or in none.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device, or whatever else nodes offer under a domain of their own.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && qualified_name(&format!("requests.{name}")).is_ok()
}

/// A `ResourceList`; entries that are no quantities are left out.
pub fn quantities(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?))).collect()
}

/// The `requests` or `limits` of a container.
pub fn of_container(container: &Value, field: &str) -> Amounts {
    container.get("resources").and_then(|resources| resources.get(field)).map(quantities).unwrap_or_default()
}

/// What a Pod asks for; what it states for itself as a whole instead, where it does (KEP-2837).
pub fn of_pod(pod: &Value, field: &str) -> Amounts {
    let list = |name: &str| pod["spec"][name].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked = |container: &Value| of_container(container, field);
    let inits = list("initContainers").iter().map(|container| (asked(container), container["restartPolicy"] == "Always"));
    let mut peak = peak(inits, list("containers").iter().map(asked));
    peak.extend(of_container(&pod["spec"], field));
    peak
}

/// The most that containers ask for at once: containers and sidecars together, or an init container with the sidecars
/// before it where that is more (KEP-753). Of each init container it says whether it is a sidecar.
pub fn peak(inits: impl Iterator<Item = (Amounts, bool)>, containers: impl Iterator<Item = Amounts>) -> Amounts {
    let (mut lasting, mut most) = (Amounts::new(), Amounts::new());
    for (asked, is_sidecar) in inits {
        let mut now = lasting.clone();
        add(&mut now, asked);
        if is_sidecar {
            lasting = now;
        } else {
            raise(&mut most, now);
        }
    }
    containers.for_each(|asked| add(&mut lasting, asked));
    raise(&mut lasting, most);
    lasting
}

fn raise(total: &mut Amounts, others: Amounts) {
    for (name, amount) in others {
        let known = total.entry(name).or_insert(Quantity::ZERO);
        *known = (*known).max(amount);
    }
}

pub fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let known = total.entry(name).or_insert(Quantity::ZERO);
        *known = *known + amount;
    }
}
