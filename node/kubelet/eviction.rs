//! Which Pod must go when the node runs short of something, or when a Pod has used more of its disk than it may
//! (`pkg/kubelet/eviction`). Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, Pod};
use skein_object::quantity::Quantity;

use crate::pod::{containers, is_sidecar};

/// Pods of this priority and above are the cluster's own (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// What a node can run short of, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

/// A node is short of what a signal says when less than this is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    least: Least,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    Units(u64),
    /// Of the capacity, in hundredths of a percent.
    Share(u64),
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Malformed {
    #[error("invalid eviction threshold syntax {0}, expected <signal><operator><value>")]
    Syntax(String),
    #[error("unsupported eviction signal {0}")]
    Signal(String),
}

/// What there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    pub(crate) available: u64,
    pub(crate) capacity: u64,
}

/// What one Pod uses.
#[derive(Debug)]
pub(crate) struct Use<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) containers: Vec<ContainerUse>,
    /// Bytes of each emptyDir on the disk.
    pub(crate) empty_dirs: BTreeMap<String, u64>,
    pub(crate) inodes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    /// What it has written to its root, and its logs.
    pub(crate) disk_bytes: u64,
}

// === impl Signal ===

impl Signal {
    const NAMES: [(&'static str, Self); 6] = [
        ("memory.available", Self::MemoryAvailable),
        ("nodefs.available", Self::NodefsAvailable),
        ("nodefs.inodesFree", Self::NodefsInodesFree),
        ("imagefs.available", Self::ImagefsAvailable),
        ("imagefs.inodesFree", Self::ImagefsInodesFree),
        ("pid.available", Self::PidAvailable),
    ];

    /// The Node's condition that says so.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "MemoryPressure",
            Self::PidAvailable => "PIDPressure",
            _ => "DiskPressure",
        }
    }

    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
}

// === impl Threshold ===

impl FromStr for Threshold {
    type Err = Malformed;

    /// As kubelet's `--eviction-hard` has it: `memory.available<100Mi`, `nodefs.available<10%`.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::Syntax(text.into());
        let (name, value) = text.split_once('<').ok_or_else(malformed)?;
        let (name, value) = (name.trim(), value.trim());
        let known = Signal::NAMES.iter().find(|(known, _)| *known == name);
        let signal = known.ok_or_else(|| Malformed::Signal(name.into()))?.1;
        let least = match value.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(malformed)?;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10 000")]
                let share = (percent * 100.0).round() as u64;
                Least::Share(share)
            }
            None => Least::Units(value.parse::<Quantity>().ok().and_then(|q| u64::try_from(q.units()).ok()).ok_or_else(malformed)?),
        };
        Ok(Self { signal, least })
    }
}

impl Threshold {
    fn least(&self, observed: &Observed) -> u64 {
        match self.least {
            Least::Units(units) => units,
            Least::Share(share) => u64::try_from(u128::from(observed.capacity) * u128::from(share) / 10_000).unwrap_or(u64::MAX),
        }
    }
}

/// The thresholds that are met, the most urgent first. What cannot be observed is not short.
pub(crate) fn met<'a>(thresholds: &'a [Threshold], observed: &BTreeMap<Signal, Observed>) -> Vec<(&'a Threshold, Observed)> {
    let is_met = |threshold: &'a Threshold| {
        let found = *observed.get(&threshold.signal)?;
        (found.available < threshold.least(&found)).then_some((threshold, found))
    };
    let mut met: Vec<_> = thresholds.iter().filter_map(is_met).collect();
    met.sort_by_key(|(threshold, _)| threshold.signal);
    met
}

fn amount(list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>, name: &str) -> Option<u64> {
    let quantity: Quantity = list?.get(name)?.0.parse().ok()?;
    u64::try_from(quantity.units()).ok()
}

fn request(container: &Container, name: &str) -> u64 {
    amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()), name).unwrap_or(0)
}

fn limit(container: &Container, name: &str) -> Option<u64> {
    amount(container.resources.as_ref().and_then(|r| r.limits.as_ref()), name)
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Whether a Pod is the cluster's own: it stays, and is taken, whatever the node is short of.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    priority(pod) >= CRITICAL
}

// === impl Use ===

impl Use<'_> {
    fn disk_bytes(&self) -> u64 {
        self.containers.iter().map(|c| c.disk_bytes).chain(self.empty_dirs.values().copied()).sum()
    }

    fn used(&self, signal: Signal) -> u64 {
        match signal.resource() {
            "memory" => self.containers.iter().map(|c| c.memory_bytes).sum(),
            "ephemeral-storage" => self.disk_bytes(),
            "inodes" => self.inodes,
            _ => 0,
        }
    }

    fn requested(&self, resource: &str) -> u64 {
        self.pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| request(container, resource)).sum()
    }
}

/// Why a Pod must go for what it has written, if it must.
pub(crate) fn over_limit(used: &Use<'_>) -> Option<String> {
    let spec = used.pod.spec.as_ref().filter(|_| !is_critical(used.pod))?;
    for volume in spec.volumes.iter().flatten() {
        let Some(stated) = volume.empty_dir.as_ref().and_then(|stated| stated.size_limit.as_ref()) else { continue };
        let most = stated.0.parse::<Quantity>().map_or(0, |quantity| u64::try_from(quantity.units()).unwrap_or(0));
        if most > 0 && used.empty_dirs.get(&volume.name).is_some_and(|bytes| *bytes > most) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, stated.0));
        }
    }
    let lasting = || containers(used.pod).filter(|c| spec.containers.iter().any(|main| main.name == c.name) || is_sidecar(c));
    let limits: Vec<u64> = lasting().filter_map(|container| limit(container, "ephemeral-storage")).collect();
    let total: u64 = limits.iter().sum();
    if !limits.is_empty() && used.disk_bytes() > total {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", shown(total)));
    }
    lasting().find_map(|container| {
        let most = limit(container, "ephemeral-storage").filter(|most| *most > 0)?;
        let found = used.containers.iter().find(|found| found.name == container.name)?;
        let over = found.disk_bytes > most;
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, shown(most)))
    })
}

/// The Pod that goes first: who uses more than it asked for, of the lowest priority, who is furthest above what it asked
/// for.
pub(crate) fn victim<'a, 'b>(signal: Signal, uses: &'b [Use<'a>]) -> Option<&'b Use<'a>> {
    let rank = |used: &&Use<'_>| {
        let (found, requested) = (used.used(signal), used.requested(signal.resource()));
        (found <= requested, priority(used.pod), Reverse(i128::from(found) - i128::from(requested)))
    };
    uses.iter().filter(|used| !is_critical(used.pod)).min_by_key(rank)
}

/// What is said to a Pod that goes.
pub(crate) fn message((threshold, observed): (&Threshold, &Observed), used: &Use<'_>) -> String {
    let resource = threshold.signal.resource();
    let (least, available) = (shown(threshold.least(observed)), shown(observed.available));
    let mut message = format!("The node was low on resource: {resource}. Threshold quantity: {least}, available: {available}. ");
    for container in containers(used.pod) {
        let Some(found) = used.containers.iter().find(|found| found.name == container.name) else { continue };
        let bytes = match resource {
            "memory" => found.memory_bytes,
            "ephemeral-storage" => found.disk_bytes,
            _ => continue,
        };
        let requested = request(container, resource);
        if bytes > requested {
            let (name, bytes, requested) = (&container.name, shown(bytes), shown(requested));
            message
                .push_str(&format!("Container {name} was using {bytes}, request is {requested}, has larger consumption of {resource}. "));
        }
    }
    message
}

/// A number in the largest binary unit that leaves it whole.
fn shown(mut number: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    while number > 0 && number.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        number /= 1024;
        unit += 1;
    }
    format!("{number}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a Pod")
    }

    fn used(pod: &Pod, memory_bytes: u64, disk_bytes: u64) -> Use<'_> {
        let containers = vec![ContainerUse { name: "c".into(), memory_bytes, disk_bytes }];
        Use { pod, containers, empty_dirs: BTreeMap::new(), inodes: 0 }
    }

    #[test]
    fn thresholds_are_read_and_met() {
        let thresholds: Vec<Threshold> =
            ["nodefs.available<10%", "memory.available<100Mi"].iter().map(|text| text.parse().expect("a threshold")).collect();
        let check = |memory: u64, disk: u64, expected: &[Signal]| {
            let observed = BTreeMap::from([
                (Signal::MemoryAvailable, Observed { available: memory, capacity: 1 << 30 }),
                (Signal::NodefsAvailable, Observed { available: disk, capacity: 1000 }),
            ]);
            assert_eq!(met(&thresholds, &observed).iter().map(|(t, _)| t.signal).collect::<Vec<_>>(), expected);
        };
        check(100 << 20, 100, &[]);
        check((100 << 20) - 1, 100, &[Signal::MemoryAvailable]);
        check(0, 99, &[Signal::MemoryAvailable, Signal::NodefsAvailable]);
        assert_eq!("memory<1".parse::<Threshold>(), Err(Malformed::Signal("memory".into())));
        assert_eq!("memory.available>1".parse::<Threshold>(), Err(Malformed::Syntax("memory.available>1".into())));
        assert_eq!("pid.available<101%".parse::<Threshold>(), Err(Malformed::Syntax("pid.available<101%".into())));
    }

    #[test]
    fn who_uses_more_than_he_asked_for_goes_before_who_matters_less() {
        let container = |memory: &str| json!([{"name": "c", "resources": {"requests": {"memory": memory}}}]);
        let (modest, greedy) = (
            pod("modest", json!({"containers": container("64Mi"), "priority": -5})),
            pod("greedy", json!({"containers": container("1Mi"), "priority": 5})),
        );
        let greedier = pod("greedier", json!({"containers": container("1Mi"), "priority": 5}));
        let critical = pod("critical", json!({"containers": container("0"), "priority": CRITICAL}));
        let check = |uses: &[Use<'_>], expected: Option<&str>| {
            let found = victim(Signal::MemoryAvailable, uses).and_then(|used| used.pod.metadata.name.as_deref());
            assert_eq!(found, expected);
        };
        check(&[used(&modest, 64 << 20, 0), used(&greedy, 2 << 20, 0), used(&critical, 1 << 30, 0)], Some("greedy"));
        check(&[used(&greedy, 2 << 20, 0), used(&greedier, 3 << 20, 0)], Some("greedier"));
        check(&[used(&modest, 65 << 20, 0), used(&greedy, 90 << 20, 0)], Some("modest"));
        check(&[used(&critical, 1 << 30, 0)], None);
        let threshold: Threshold = "memory.available<100Mi".parse().expect("a threshold");
        let told = message((&threshold, &Observed { available: 50 << 20, capacity: 1 << 30 }), &used(&greedy, 2 << 20, 0));
        assert_eq!(
            told,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn a_pod_keeps_to_what_it_may_write() {
        let limited = pod(
            "p",
            json!({"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}, {"name": "d"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "10Ki"}}]}),
        );
        let check = |disk_bytes: u64, volume: u64, expected: Option<&str>| {
            let mut used = used(&limited, 0, disk_bytes);
            used.empty_dirs.insert("v".into(), volume);
            assert_eq!(over_limit(&used).as_deref(), expected);
        };
        check(1 << 19, 10 << 10, None);
        check(0, (10 << 10) + 1, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"10Ki\". "));
        check(1 << 20, 1, Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "));
    }
}
