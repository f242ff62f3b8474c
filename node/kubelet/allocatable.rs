//! What of a node's resources Pods may have: not what is kept for the system and for Kubernetes, nor what must be left
//! (`pkg/kubelet/cm/node_container_manager`). Pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Value, json};
use skein_object::quantity::Quantity;

use crate::eviction::{Eviction, Signal};

/// What can be kept.
const RESOURCES: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// What is kept from Pods, by resource: `cpu=200m,memory=1Gi`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reserved(BTreeMap<String, Quantity>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not like cpu=200m,memory=1Gi (of cpu, memory, ephemeral-storage, pid)")]
pub struct Malformed(String);

// === impl Reserved ===

impl FromStr for Reserved {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.into());
        let each = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(|one| {
            let (name, amount) = one.split_once('=').ok_or_else(malformed)?;
            let amount = amount.parse::<Quantity>().ok().filter(|amount| amount.milli() >= 0);
            let amount = amount.filter(|_| RESOURCES.contains(&name)).ok_or_else(malformed)?;
            Ok((name.to_string(), amount))
        });
        each.collect::<Result<_, _>>().map(Self)
    }
}

/// Of this capacity, written as it is written.
pub(crate) fn allocatable(capacity: &Value, reserved: &[Reserved], eviction: &Eviction) -> Value {
    let mut allocatable = capacity.clone();
    for (name, value) in allocatable.as_object_mut().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let Ok(all) = text.parse::<Quantity>() else { continue };
        let kept: i128 = reserved.iter().filter_map(|reserved| reserved.0.get(name)).map(|amount| amount.milli()).sum();
        let signal = match name.as_str() {
            "memory" => Some(Signal::MemoryAvailable),
            "ephemeral-storage" => Some(Signal::NodefsAvailable),
            _ => None,
        };
        let units = u64::try_from(all.units()).unwrap_or(0);
        let left = signal.map_or(0, |signal| eviction.hard_least(signal, units));
        let rest = (all.milli() - kept - i128::from(left) * 1000).max(0);
        if rest != all.milli() {
            *value = json!(written(rest, text.ends_with("Ki")));
        }
    }
    allocatable
}

fn written(milli: i128, in_kibi: bool) -> String {
    if in_kibi && milli % 1_024_000 == 0 { format!("{}Ki", milli / 1_024_000) } else { Quantity::from_milli(milli).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_nobody_else_needs() {
        let capacity = json!({"cpu": "4", "memory": "16393204Ki", "pods": "110", "ephemeral-storage": "1000Ki"});
        let check = |reserved: &[&str], thresholds: &[&str], expected: Value| {
            let reserved: Vec<Reserved> = reserved.iter().map(|text| text.parse().expect("it is well formed")).collect();
            let thresholds: Vec<_> = thresholds.iter().map(|text| text.parse().expect("a threshold")).collect();
            let eviction = Eviction::new(&thresholds, &[], &[], &[]).expect("thresholds");
            assert_eq!(allocatable(&capacity, &reserved, &eviction), expected);
        };
        check(&[], &[], capacity.clone());
        let less = json!({"cpu": "4", "memory": "16290804Ki", "pods": "110", "ephemeral-storage": "900Ki"});
        check(&[], &["memory.available<100Mi", "nodefs.available<10%"], less);
        let kept = json!({"cpu": "3700m", "memory": "15242228Ki", "pods": "110", "ephemeral-storage": "1000Ki"});
        check(&["cpu=200m,memory=1Gi", "cpu=100m"], &["memory.available<100Mi"], kept);
        let none = json!({"cpu": "0", "memory": "16393204Ki", "pods": "110", "ephemeral-storage": "1000Ki"});
        check(&["cpu=9"], &[], none);
        for text in ["cpu", "cpu=x", "gpu=1", "cpu=-1"] {
            assert_eq!(text.parse::<Reserved>(), Err(Malformed(text.into())));
        }
    }
}
