//! When a node drives away Pods, in the words of kubelet's own options.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jiff::SignedDuration;
use skein_daemon::{Amount, Eviction, Signal, Threshold};

#[derive(Args)]
#[group(id = "eviction")]
pub(super) struct Arguments {
    /// Pods are driven away when less than this is left of the node's memory, disks (nodefs: volumes and logs; imagefs:
    /// images), their inodes, or process ids (pid.available); never where it is empty
    #[arg(
        long,
        overrides_with = "eviction_hard",
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%",
        value_parser = thresholds
    )]
    eviction_hard: Thresholds,
    /// Pods are driven away, and get time to end, when less than this was left for so long as --eviction-soft-grace-period
    /// says, like memory.available<1Gi
    #[arg(long, value_delimiter = ',', requires = "eviction_soft_grace_period")]
    eviction_soft: Vec<Threshold>,
    /// How long each of the soft thresholds must be met, like memory.available=1m30s
    #[arg(long, value_delimiter = ',', value_parser = grace)]
    eviction_soft_grace_period: Vec<(Signal, Duration)>,
    /// How many seconds a Pod gets at most to end when a soft threshold drives it away
    #[arg(long, default_value_t = 0)]
    eviction_max_pod_grace_period: u32,
    /// What must be there beyond a threshold before the node is short no more, like nodefs.available=500Mi
    #[arg(long, value_delimiter = ',', value_parser = pair::<Amount>)]
    eviction_minimum_reclaim: Vec<(Signal, Amount)>,
    /// For how long the node says that it was short
    #[arg(long, default_value = "5m", value_parser = span)]
    eviction_pressure_transition_period: Duration,
}

#[derive(Clone)]
struct Thresholds(Vec<Threshold>);

// === impl Arguments ===

impl Arguments {
    pub(super) fn eviction(self) -> Result<Eviction> {
        let (graces, reclaims) = (self.eviction_soft_grace_period, self.eviction_minimum_reclaim);
        let mut eviction = Eviction::new(&self.eviction_hard.0, &self.eviction_soft, &graces, &reclaims)?;
        eviction.pod_grace_seconds_max = self.eviction_max_pod_grace_period.into();
        eviction.condition_lasts = self.eviction_pressure_transition_period;
        Ok(eviction)
    }
}

fn thresholds(text: &str) -> Result<Thresholds, String> {
    let each = text.split(',').filter(|one| !one.trim().is_empty()).map(|one| one.trim().parse::<Threshold>());
    each.collect::<Result<_, _>>().map(Thresholds).map_err(|why| why.to_string())
}

/// `signal=value`
fn pair<T: FromStr<Err: ToString>>(text: &str) -> Result<(Signal, T), String> {
    let (signal, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not like memory.available=VALUE"))?;
    Ok((signal.parse().map_err(|why: <Signal as FromStr>::Err| why.to_string())?, value.parse().map_err(|why: T::Err| why.to_string())?))
}

fn grace(text: &str) -> Result<(Signal, Duration), String> {
    let (signal, time) = pair::<String>(text)?;
    Ok((signal, span(&time)?))
}

/// A time as kubelet takes it, which may be none at all.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = text.parse().map_err(|_| format!("{text:?} is not a duration like 1m30s"))?;
    Duration::try_from(span).map_err(|_| format!("{text:?} must not be negative"))
}
