//! Amounts of resources: sums of them, and what a Pod asks for as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

pub type Amounts = BTreeMap<String, Quantity>;

/// A `ResourceList`; entries that are no quantities are left out.
pub fn quantities(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?))).collect()
}

/// The `requests` or `limits` of a container.
pub fn of_container(container: &Value, field: &str) -> Amounts {
    container.get("resources").and_then(|resources| resources.get(field)).map(quantities).unwrap_or_default()
}

/// What a Pod asks for: its containers and sidecars together, or what is there while an init container runs; what it
/// states for itself as a whole instead, where it does (KEP-2837).
pub fn of_pod(pod: &Value, field: &str) -> Amounts {
    let list = |name: &str| pod["spec"][name].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut lasting, mut most) = (Amounts::new(), Amounts::new());
    for container in list("initContainers") {
        let mut now = lasting.clone();
        add(&mut now, of_container(container, field));
        if container["restartPolicy"] == "Always" {
            lasting = now;
            continue;
        }
        for (name, amount) in now {
            let known = most.entry(name).or_insert(Quantity::ZERO);
            *known = (*known).max(amount);
        }
    }
    list("containers").iter().for_each(|container| add(&mut lasting, of_container(container, field)));
    for (name, amount) in most {
        let known = lasting.entry(name).or_insert(Quantity::ZERO);
        *known = (*known).max(amount);
    }
    lasting.extend(of_container(&pod["spec"], field));
    lasting
}

pub fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let known = total.entry(name).or_insert(Quantity::ZERO);
        *known = *known + amount;
    }
}
