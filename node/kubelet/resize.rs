//! In-place resize (KEP-1287): what must change so that running containers have the resources that are asked for. Pure.

use k8s_openapi::api::core::v1::Container;
use skein_cri as v1;
use skein_object::amounts::Amounts;

/// The conditions that tell of a resize.
pub(crate) const PENDING: &str = "PodResizePending";
pub(crate) const IN_PROGRESS: &str = "PodResizeInProgress";

/// How a container gets other resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    InPlace,
    /// Its resize policy says that it cannot take them while it runs.
    Restart,
}

/// Why a resize has not been done; a condition of the Pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pending {
    pub(crate) condition: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The change that leads from what a container was given to what it should have; `None` where there is none. Of a
/// container that was started before this daemon it is not known what it was given; being given it again does no harm.
pub(crate) fn change(
    container: &Container,
    wanted: &v1::LinuxContainerResources,
    given: Option<&v1::LinuxContainerResources>,
) -> Option<Change> {
    let Some(given) = given else { return Some(Change::InPlace) };
    let cpu = |r: &v1::LinuxContainerResources| (r.cpu_period, r.cpu_quota, r.cpu_shares);
    let changed = [("cpu", cpu(wanted) != cpu(given)), ("memory", wanted.memory_limit_in_bytes != given.memory_limit_in_bytes)];
    let restarts = |resource: &str| {
        let policies = container.resize_policy.iter().flatten();
        { policies }.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
    };
    let mut found = None;
    for (resource, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        if restarts(resource) {
            return Some(Change::Restart);
        }
        found = Some(Change::InPlace);
    }
    found
}

/// Whether the node has what a Pod asks for, beside what its other Pods ask for.
pub(crate) fn fit(asked: &Amounts, others: &Amounts, allocatable: &Amounts) -> Result<(), Pending> {
    for resource in ["cpu", "memory"] {
        let amount = |amounts: &Amounts| amounts.get(resource).copied().unwrap_or_default();
        let (wanted, used, capacity) = (amount(asked), amount(others), amount(allocatable));
        let of = |reason, message| Err(Pending { condition: PENDING, reason, message });
        let shown = |amount: skein_object::quantity::Quantity| if resource == "cpu" { amount.milli() } else { amount.units() };
        if wanted > capacity {
            let message =
                format!("Node didn't have enough capacity: {resource}, requested: {}, capacity: {}", shown(wanted), shown(capacity));
            return of("Infeasible", message);
        }
        if wanted + used > capacity {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {}, used: {}, capacity: {}",
                shown(wanted),
                shown(used),
                shown(capacity)
            );
            return of("Deferred", message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(cpu_shares: i64, memory: i64) -> v1::LinuxContainerResources {
        v1::LinuxContainerResources { cpu_shares, memory_limit_in_bytes: memory, ..Default::default() }
    }

    #[test]
    fn a_policy_says_what_needs_a_restart() {
        let container = json!({"name": "c", "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]});
        let container: Container = serde_json::from_value(container).expect("a container");
        let check = |wanted, known: Option<_>, expected| assert_eq!(change(&container, &wanted, known.as_ref()), expected);
        check(given(2, 10), Some(given(2, 10)), None);
        check(given(4, 10), Some(given(2, 10)), Some(Change::InPlace));
        check(given(4, 20), Some(given(2, 10)), Some(Change::Restart));
        check(given(4, 20), None, Some(Change::InPlace));
    }

    #[test]
    fn what_does_not_fit_waits_or_never_will() {
        let amounts = |cpu: &str| Amounts::from([("cpu".to_string(), cpu.parse().expect("a quantity"))]);
        let check = |asked, others, expected: Option<&str>| {
            let found = fit(&amounts(asked), &amounts(others), &amounts("4"));
            assert_eq!(found.err().map(|pending| pending.reason), expected);
        };
        check("2", "1", None);
        check("4", "1", Some("Deferred"));
        check("5", "0", Some("Infeasible"));
    }
}
