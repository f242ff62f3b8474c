//! What this node and its containers use, measured every few seconds: for `kubectl top` and the autoscaler as rates, for
//! whoever scrapes this kubelet as counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use skein_cri as v1;
use skein_object::usage::{Amounts, ContainerUsage, NodeUsage, PodUsage};

use crate::Error;
use crate::cri::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, Runtime};
use crate::machine::memory_bytes;

const INTERVAL: Duration = Duration::from_secs(10);

/// Ticks of `/proc/stat` in a second: `USER_HZ`, which is 100 wherever Linux runs.
const TICK_NS: u64 = 10_000_000;

/// The newest measurement. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<Newest>>);

#[derive(Debug, Default)]
struct Newest {
    usage: Option<Arc<NodeUsage>>,
    look: Option<Arc<Look>>,
}

/// What was seen at one moment.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) at_ms: i64,
    pub(crate) node_cpu_ns: u64,
    pub(crate) node_memory_bytes: u64,
    pub(crate) stats: Vec<v1::ContainerStats>,
    /// Of the Pods' sandboxes; not every runtime tells.
    pub(crate) sandboxes: Vec<v1::PodSandboxStats>,
    pub(crate) containers: Vec<v1::Container>,
}

/// Counters at one moment, from which the next look makes rates.
#[derive(Default)]
struct Counters {
    node_ns: u64,
    /// Of each container: the time of the count and the CPU time so far.
    containers: BTreeMap<String, (i64, u64)>,
}

// === impl Stats ===

impl Stats {
    /// `None` until there are two looks to compare.
    pub fn newest(&self) -> Option<Arc<NodeUsage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).usage.clone()
    }

    pub(crate) fn look(&self) -> Option<Arc<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look.clone()
    }

    /// Measures for as long as the daemon runs.
    pub(crate) async fn run(self, runtime: Runtime) {
        let mut before = Counters::default();
        let mut looked = Timestamp::UNIX_EPOCH;
        loop {
            if let Ok(look) = Look::of(&runtime).await {
                let now = Timestamp::from_millisecond(look.at_ms).unwrap_or_default();
                let window_ms = look.at_ms - looked.as_millisecond();
                let (usage, counters) = rates(&before, &look.stats, look.node_cpu_ns, now, window_ms);
                let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                newest.usage = (looked != Timestamp::UNIX_EPOCH).then(|| Arc::new(usage));
                newest.look = Some(Arc::new(look));
                (before, looked) = (counters, now);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

// === impl Look ===

impl Look {
    async fn of(runtime: &Runtime) -> Result<Self, Error> {
        // A Pod's counts hold those of its containers. A runtime that cannot tell them is asked for the containers alone.
        let sandboxes = runtime.sandbox_stats().await.unwrap_or_default();
        let of_containers = |sandbox: &v1::PodSandboxStats| sandbox.linux.iter().flat_map(|l| l.containers.clone()).collect::<Vec<_>>();
        let mut stats: Vec<v1::ContainerStats> = sandboxes.iter().flat_map(of_containers).collect();
        if stats.is_empty() {
            stats = runtime.container_stats().await?;
        }
        Ok(Self {
            at_ms: Timestamp::now().as_millisecond(),
            node_cpu_ns: node_cpu_ns(),
            node_memory_bytes: node_memory_bytes(),
            stats,
            sandboxes,
            containers: runtime.containers(None).await?,
        })
    }

    /// Each running container with what it uses.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (&v1::Container, &v1::ContainerStats)> {
        let running = i32::from(v1::ContainerState::ContainerRunning);
        self.stats.iter().filter_map(move |stats| {
            let id = &stats.attributes.as_ref()?.id;
            let container = self.containers.iter().find(|container| container.id == *id && container.state == running)?;
            Some((container, stats))
        })
    }
}

/// Rates since the last look; a container that is new since then has none yet.
fn rates(before: &Counters, found: &[v1::ContainerStats], node_ns: u64, now: Timestamp, window_ms: i64) -> (NodeUsage, Counters) {
    let mut counters = Counters { node_ns, containers: BTreeMap::new() };
    let mut pods: BTreeMap<(String, String), Vec<ContainerUsage>> = BTreeMap::new();
    for stats in found {
        let (Some(about), Some(cpu)) = (&stats.attributes, &stats.cpu) else { continue };
        let total = cpu.usage_core_nano_seconds.as_ref().map_or(0, |v| v.value);
        counters.containers.insert(about.id.clone(), (cpu.timestamp, total));
        let Some((since, earlier)) = before.containers.get(&about.id).copied() else { continue };
        let label = |name: &str| about.labels.get(name).cloned().unwrap_or_default();
        let amounts = Amounts {
            cpu_nano: rate(total.saturating_sub(earlier), cpu.timestamp - since),
            memory_bytes: stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()).map_or(0, |v| v.value),
        };
        let container = ContainerUsage { name: label(CONTAINER_NAME), amounts: Some(amounts) };
        pods.entry((label(POD_NAMESPACE), label(POD_NAME))).or_default().push(container);
    }
    let total =
        Amounts { cpu_nano: rate(node_ns.saturating_sub(before.node_ns), window_ms * 1_000_000), memory_bytes: node_memory_bytes() };
    let pods = pods.into_iter().map(|((namespace, name), containers)| PodUsage { namespace, name, containers }).collect();
    (NodeUsage { time_ms: now.as_millisecond(), window_ms, total: Some(total), pods }, counters)
}

/// Billionths of a core: CPU time in the window's time.
fn rate(used_ns: u64, window_ns: i64) -> u64 {
    let window = u128::try_from(window_ns).unwrap_or(0).max(1);
    u64::try_from(u128::from(used_ns) * 1_000_000_000 / window).unwrap_or(u64::MAX)
}

/// The CPU time that this machine has spent on anything.
fn node_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    // Fields 3 and 4 are idle and waiting for disks; 8 and 9 are counted in the first two already.
    ticks.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, ticks)| ticks * TICK_NS).sum()
}

fn node_memory_bytes() -> u64 {
    memory_bytes("MemTotal").unwrap_or(0).saturating_sub(memory_bytes("MemAvailable").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_looks() {
        let stats = |seconds: i64, used: u64| v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: "c".into(),
                labels: [(POD_NAME, "p"), (POD_NAMESPACE, "n"), (CONTAINER_NAME, "c")].map(|(k, v)| (k.into(), v.into())).into(),
                ..Default::default()
            }),
            cpu: Some(v1::CpuUsage {
                timestamp: seconds * 1_000_000_000,
                usage_core_nano_seconds: Some(v1::UInt64Value { value: used }),
                ..Default::default()
            }),
            memory: Some(v1::MemoryUsage { working_set_bytes: Some(v1::UInt64Value { value: 7 }), ..Default::default() }),
            ..Default::default()
        };
        let (first, counters) = rates(&Counters::default(), &[stats(100, 5_000_000_000)], 0, Timestamp::UNIX_EPOCH, 10_000);
        assert!(first.pods.is_empty());
        let (second, _) = rates(&counters, &[stats(110, 10_000_000_000)], 20_000_000_000, Timestamp::UNIX_EPOCH, 10_000);
        let used = second.pods[0].containers[0].amounts.expect("amounts");
        assert_eq!((used.cpu_nano, used.memory_bytes), (500_000_000, 7));
        assert_eq!(second.total.expect("a total").cpu_nano, 2_000_000_000);
    }
}
