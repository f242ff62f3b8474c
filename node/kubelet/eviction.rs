//! Which Pod must go when the node runs short of something, or when a Pod has used more of its disk than it may
//! (`pkg/kubelet/eviction`). Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use skein_object::quantity::Quantity;

use crate::pod::{containers, is_sidecar};

/// Pods of this priority and above are the cluster's own (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// The reason of a Pod that the node is too short of something for.
pub(crate) const EVICTED: &str = "Evicted";

/// `immediateEvictionGracePeriodSeconds`
pub(crate) const IMMEDIATE_GRACE_SECONDS: i64 = 1;

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
    least: Amount,
    /// A soft threshold is one that a Pod must go for only when it has been met for so long.
    grace: Option<Duration>,
    /// The node stays short until there is so much more.
    reclaim: Amount,
}

/// So much of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Units(u64),
    /// Of the capacity, in hundredths of a percent.
    Share(u64),
}

/// How a node keeps itself from running short.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// The hard ones first.
    thresholds: Vec<Threshold>,
    /// What a Pod gets at most to end, when a soft threshold drives it away.
    pub pod_grace_seconds_max: i64,
    /// For how long a condition stays after it was last met.
    pub condition_lasts: Duration,
}

/// Which thresholds are met, and since when.
#[derive(Debug, Default)]
pub(crate) struct Course {
    since: BTreeMap<usize, Duration>,
}

/// A threshold that is met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Met {
    pub(crate) threshold: Threshold,
    pub(crate) observed: Observed,
    /// Whether a Pod must go for it.
    pub(crate) is_due: bool,
}

/// A Pod that must go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Evicted {
    /// As its status says it.
    pub(crate) reason: &'static str,
    pub(crate) why: String,
    /// What it gets at most to end.
    pub(crate) grace_seconds_max: i64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Malformed {
    #[error("invalid eviction threshold syntax {0}, expected <signal><operator><value>")]
    Syntax(String),
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(&'static str),
    #[error("invalid amount {0} for an eviction signal, expected a quantity or a percentage")]
    Amount(String),
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

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }

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

impl FromStr for Signal {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == text.trim());
        known.map(|(_, signal)| *signal).ok_or_else(|| Malformed::Signal(text.trim().into()))
    }
}

// === impl Amount ===

impl FromStr for Amount {
    type Err = Malformed;

    /// `100Mi`, `10%`
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        let malformed = || Malformed::Amount(text.into());
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(malformed)?;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10 000")]
                let share = (percent * 100.0).round() as u64;
                Ok(Self::Share(share))
            }
            None => Ok(Self::Units(text.parse::<Quantity>().ok().and_then(|q| u64::try_from(q.units()).ok()).ok_or_else(malformed)?)),
        }
    }
}

impl Amount {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Units(units) => units,
            Self::Share(share) => u64::try_from(u128::from(capacity) * u128::from(share) / 10_000).unwrap_or(u64::MAX),
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
        let least = value.parse().map_err(|_| malformed())?;
        Ok(Self { signal: name.parse()?, least, grace: None, reclaim: Amount::Units(0) })
    }
}

impl Threshold {
    fn least(&self, observed: &Observed) -> u64 {
        self.least.of(observed.capacity)
    }
}

// === impl Eviction ===

impl Eviction {
    /// Hard and soft thresholds; how long each of the soft ones must be met, and what must be there again before one is
    /// not.
    pub fn new(
        hard: &[Threshold],
        soft: &[Threshold],
        graces: &[(Signal, Duration)],
        reclaims: &[(Signal, Amount)],
    ) -> Result<Self, Malformed> {
        let grace = |signal: Signal| {
            let stated = graces.iter().find(|(of, _)| *of == signal).map(|(_, grace)| *grace);
            stated.ok_or_else(|| Malformed::NoGrace(signal.name()))
        };
        let mut thresholds = hard.to_vec();
        for threshold in soft {
            thresholds.push(Threshold { grace: Some(grace(threshold.signal)?), ..*threshold });
        }
        for threshold in &mut thresholds {
            if let Some((_, reclaim)) = reclaims.iter().find(|(of, _)| *of == threshold.signal) {
                threshold.reclaim = *reclaim;
            }
        }
        Ok(Self { thresholds, pod_grace_seconds_max: 0, condition_lasts: Duration::from_secs(300) })
    }

    /// What a Pod gets to end: nothing of a kind where the node is short at once (`immediateEvictionGracePeriodSeconds`).
    /// What must be left of something, of which there is so much, before Pods are driven away at once.
    pub(crate) fn hard_least(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().find(|threshold| threshold.signal == signal && threshold.grace.is_none());
        hard.map_or(0, |threshold| threshold.least.of(capacity))
    }

    pub(crate) fn grace_seconds(&self, threshold: &Threshold) -> i64 {
        if threshold.grace.is_some() { self.pod_grace_seconds_max } else { IMMEDIATE_GRACE_SECONDS }
    }
}

// === impl Course ===

impl Course {
    /// The thresholds that are met, the most urgent first. What cannot be observed is not short.
    pub(crate) fn observe(&mut self, eviction: &Eviction, observed: &BTreeMap<Signal, Observed>, now: Duration) -> Vec<Met> {
        let mut met = Vec::new();
        let mut still = BTreeSet::new();
        for (index, threshold) in eviction.thresholds.iter().enumerate() {
            let Some(found) = observed.get(&threshold.signal).copied() else { continue };
            let more = if self.since.contains_key(&index) { threshold.reclaim.of(found.capacity) } else { 0 };
            if found.available >= threshold.least(&found).saturating_add(more) {
                continue;
            }
            still.insert(index);
            let since = *self.since.entry(index).or_insert(now);
            let is_due = threshold.grace.is_none_or(|grace| now.saturating_sub(since) >= grace);
            met.push(Met { threshold: *threshold, observed: found, is_due });
        }
        self.since.retain(|index, _| still.contains(index));
        met.sort_by_key(|met| met.threshold.signal);
        met
    }
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
pub(crate) fn message(Met { threshold, observed, .. }: &Met, used: &Use<'_>) -> String {
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
pub(crate) fn shown(mut number: u64) -> String {
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

    fn threshold(text: &str) -> Threshold {
        text.parse().expect("a threshold")
    }

    #[test]
    fn thresholds_are_read_and_met() {
        let hard = ["nodefs.available<10%", "memory.available<100Mi"].map(threshold);
        let eviction = Eviction::new(&hard, &[], &[], &[]).expect("thresholds");
        let check = |memory: u64, disk: u64, expected: &[Signal]| {
            let observed = BTreeMap::from([
                (Signal::MemoryAvailable, Observed { available: memory, capacity: 1 << 30 }),
                (Signal::NodefsAvailable, Observed { available: disk, capacity: 1000 }),
            ]);
            let met = Course::default().observe(&eviction, &observed, Duration::ZERO);
            assert_eq!(
                met.iter().map(|met| (met.threshold.signal, met.is_due)).collect::<Vec<_>>(),
                expected.iter().map(|s| (*s, true)).collect::<Vec<_>>()
            );
        };
        check(100 << 20, 100, &[]);
        check((100 << 20) - 1, 100, &[Signal::MemoryAvailable]);
        check(0, 99, &[Signal::MemoryAvailable, Signal::NodefsAvailable]);
        assert_eq!("memory<1".parse::<Threshold>(), Err(Malformed::Signal("memory".into())));
        assert_eq!("memory.available>1".parse::<Threshold>(), Err(Malformed::Syntax("memory.available>1".into())));
        assert_eq!("pid.available<101%".parse::<Threshold>(), Err(Malformed::Syntax("pid.available<101%".into())));
    }

    #[test]
    fn a_soft_threshold_is_due_when_it_has_been_met_for_its_time_and_stays_until_enough_is_there_again() {
        let soft = [threshold("memory.available<100")];
        assert_eq!(Eviction::new(&[], &soft, &[], &[]), Err(Malformed::NoGrace("memory.available")));
        let graces = [(Signal::MemoryAvailable, Duration::from_secs(30))];
        let eviction = Eviction::new(&[], &soft, &graces, &[(Signal::MemoryAvailable, Amount::Units(50))]).expect("a threshold");
        let mut course = Course::default();
        let mut check = |second: u64, available: u64, expected: Option<bool>| {
            let observed = BTreeMap::from([(Signal::MemoryAvailable, Observed { available, capacity: 1000 })]);
            let met = course.observe(&eviction, &observed, Duration::from_secs(second));
            assert_eq!(met.first().map(|met| met.is_due), expected, "at {second} s");
        };
        check(0, 120, None);
        check(10, 99, Some(false));
        check(30, 120, Some(false));
        check(40, 149, Some(true));
        check(50, 150, None);
        check(60, 120, None);
        check(70, 99, Some(false));
        assert_eq!(eviction.grace_seconds(&eviction.thresholds[0]), eviction.pod_grace_seconds_max);
        assert_eq!(eviction.grace_seconds(&soft[0]), IMMEDIATE_GRACE_SECONDS);
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
        let observed = Observed { available: 50 << 20, capacity: 1 << 30 };
        let met = Met { threshold: threshold("memory.available<100Mi"), observed, is_due: true };
        let told = message(&met, &used(&greedy, 2 << 20, 0));
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
