//! What an experiment is: `chaos.skein.dev/v1alpha1`, kind `ChaosExperiment`. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_lab::{Ailment, Shape};

const API_VERSION: &str = "chaos.skein.dev/v1alpha1";
const KIND: &str = "ChaosExperiment";

/// Longer than this nobody looks on.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

const DELAY_MS_MAX: u64 = 10_000;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Experiment {
    api_version: String,
    kind: String,
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// For how long faults come.
    #[serde(deserialize_with = "span")]
    pub(crate) duration: Duration,
    #[serde(default)]
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) target: Target,
    pub(crate) faults: Vec<Fault>,
    #[serde(default)]
    pub(crate) steady_state: Vec<Probe>,
    #[serde(default)]
    pub(crate) guard: Guard,
    /// Breaks the experiment off when no write succeeds for so long.
    #[serde(default, deserialize_with = "maybe_span")]
    pub(crate) abort_after: Option<Duration>,
}

/// Whom faults hit; what is not said may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) role: Option<Role>,
    pub(crate) node: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) zone: Option<String>,
    /// Nodes on which one of these runs.
    pub(crate) pod: Option<Pods>,
}

/// Some Pods of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pods {
    #[serde(default = "default_namespace")]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) selector: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Role {
    Leader,
    /// One that votes and does not lead.
    Voter,
    Standby,
    Replica,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// From the beginning of one to the beginning of the next, on average.
    #[serde(deserialize_with = "span")]
    pub(crate) every: Duration,
    #[serde(deserialize_with = "span")]
    pub(crate) duration: Duration,
    /// Of `links`: by how much longer every packet from and to the node takes.
    #[serde(default, deserialize_with = "maybe_span")]
    pub(crate) delay: Option<Duration>,
    /// Of `links`: how many packets of a thousand are lost.
    #[serde(default)]
    pub(crate) lost_permille: u32,
    /// Of `slowDisk`.
    #[serde(default)]
    pub(crate) writes_per_second: u64,
    /// Of `shiftClock`: by how much the clock is ahead, or behind: `1h`, `-30s`.
    #[serde(default, deserialize_with = "maybe_offset")]
    pub(crate) time_offset: i64,
    /// Of faults of the network: only links to these are hit.
    #[serde(default)]
    pub(crate) from: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Daemon, runtime and containers.
    KillMachine,
    KillDaemon,
    PauseMachine,
    PauseDaemon,
    /// One Pod of the target, without grace.
    KillPod,
    /// Neither hears nor is heard by the others.
    Partition,
    /// Is heard, and hears nobody.
    Deafen,
    /// Its links are long or lossy.
    Links,
    /// The daemon's disk takes only so many writes a second.
    SlowDisk,
    /// Nothing more fits on the disk that has the daemon's data.
    FillDisk,
    /// The daemon's wall clock leaps.
    ShiftClock,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", deny_unknown_fields)]
pub(crate) enum Probe {
    /// Clients write and read keys through all nodes; what they were told must be what happened.
    Linearizability {
        #[serde(default = "four")]
        clients: usize,
        #[serde(default = "four")]
        keys: usize,
    },
    /// Through some node, a write succeeds at least this often. Needs `linearizability`, whose clients write.
    Available {
        #[serde(deserialize_with = "span")]
        within: Duration,
    },
    /// Containers of these Pods run on: none is started anew. Not for machines that are killed.
    PodsRunOn(Pods),
    /// This path of the API or of a Service's proxy answers, through some node, with at most so many failures.
    Api {
        path: String,
        #[serde(default)]
        failures: u64,
    },
}

/// What an experiment may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Guard {
    /// Break the majority of the voters.
    #[default]
    Majority,
    None,
}

/// Why a file is no experiment.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("this is no {KIND}: {0}")]
    Malformed(#[from] serde_yaml_ng::Error),
    #[error("{field}: {why}")]
    Invalid { field: String, why: String },
}

fn four() -> usize {
    4
}

fn default_namespace() -> String {
    "default".into()
}

/// `500ms`, `30s`, `5m`, `1h`
fn parse_span(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

fn span<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_span(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration like 500ms, 30s or 5m")))
}

/// Seconds, of a span with or without a sign.
fn maybe_offset<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (sign, rest) = text.strip_prefix('-').map_or((1, text.as_str()), |rest| (-1, rest));
    let seconds = parse_span(rest).and_then(|span| i64::try_from(span.as_secs()).ok()).filter(|seconds| *seconds > 0);
    seconds
        .map(|seconds| sign * seconds)
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no offset of a clock like 1h or -30s")))
}

fn maybe_span<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    span(deserializer).map(Some)
}

// === impl Pods ===

impl Pods {
    /// Where the API lists them.
    pub(crate) fn path(&self) -> String {
        let selector = self.selector.replace('=', "%3D").replace(',', "%2C");
        format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", self.namespace)
    }
}

// === impl Fault ===

impl Fault {
    /// What becomes of the links.
    pub(crate) fn shape(&self) -> Shape {
        let delay_ms = self.delay.map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        Shape { delay_ms, jitter_ms: delay_ms / 10, lost_permille: self.lost_permille }
    }

    pub(crate) fn ailment(&self) -> Option<Ailment> {
        self.kind.ailment(self.writes_per_second, self.time_offset)
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillMachine => "killMachine",
            Self::KillDaemon => "killDaemon",
            Self::PauseMachine => "pauseMachine",
            Self::PauseDaemon => "pauseDaemon",
            Self::KillPod => "killPod",
            Self::Partition => "partition",
            Self::Deafen => "deafen",
            Self::Links => "links",
            Self::SlowDisk => "slowDisk",
            Self::FillDisk => "fillDisk",
            Self::ShiftClock => "shiftClock",
        }
    }

    /// What a daemon's machine suffers from while it lasts.
    pub(crate) fn ailment(self, writes_per_second: u64, seconds: i64) -> Option<Ailment> {
        match self {
            Self::SlowDisk => Some(Ailment::SlowDisk { writes_per_second }),
            Self::FillDisk => Some(Ailment::FullDisk),
            Self::ShiftClock => Some(Ailment::Clock { seconds }),
            _ => None,
        }
    }

    /// There is one network, so one fault of it at a time.
    pub(crate) fn is_of_network(self) -> bool {
        matches!(self, Self::Partition | Self::Deafen | Self::Links)
    }
}

// === impl Experiment ===

impl Experiment {
    /// Reads YAML or JSON and checks it.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let experiment: Self = serde_yaml_ng::from_str(text)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Reads an object of the API and checks it.
    pub(crate) fn of_object(object: &Value) -> Result<Self, Rejection> {
        let experiment = json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {"name": object["metadata"]["name"]}, "spec": object["spec"],
        });
        Self::parse(&experiment.to_string())
    }

    /// The same, by another plan.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.spec.seed = seed;
        self
    }

    fn check(&self) -> Result<(), Rejection> {
        let invalid = |field: &str, why: &str| Err(Rejection::Invalid { field: field.into(), why: why.into() });
        if self.api_version != API_VERSION || self.kind != KIND {
            return invalid("apiVersion", &format!("must be {API_VERSION}, kind {KIND}"));
        }
        let spec = &self.spec;
        if spec.duration.is_zero() || spec.duration > DURATION_MAX {
            return invalid("spec.duration", "must be more than nothing and at most 24h");
        }
        if spec.faults.is_empty() {
            return invalid("spec.faults", "Required value");
        }
        for (index, fault) in spec.faults.iter().enumerate() {
            if fault.every.is_zero() || fault.duration >= fault.every {
                return invalid(
                    &format!("spec.faults[{index}].duration"),
                    "must be shorter than `every`, so that a fault ends before the next",
                );
            }
        }
        for (index, fault) in spec.faults.iter().enumerate() {
            let shape = fault.shape();
            let field = format!("spec.faults[{index}]");
            match fault.kind {
                Kind::KillPod if spec.target.pod.is_none() => return invalid(&field, "killPod needs `target.pod`"),
                kind if fault.from != Target::default() && (!kind.is_of_network() || fault.from.pod.is_some()) => {
                    return invalid(&field, "`from` is for faults of the network, and names nodes");
                }
                Kind::Links if shape == Shape::default() => return invalid(&field, "links need a `delay`, or `lostPermille`"),
                Kind::Links if shape.lost_permille > 1000 || shape.delay_ms > DELAY_MS_MAX => {
                    return invalid(&field, "at most 1000 of a thousand packets can be lost, and none takes longer than 10s");
                }
                Kind::Links => {}
                kind if (kind == Kind::SlowDisk) != (fault.writes_per_second > 0) => {
                    return invalid(&field, "slowDisk needs `writesPerSecond`, and no other has it");
                }
                kind if (kind == Kind::ShiftClock) != (fault.time_offset != 0) => {
                    return invalid(&field, "shiftClock needs `timeOffset`, and no other has it");
                }
                _ if shape != Shape::default() => return invalid(&field, "`delay` and `lostPermille` are for `links`"),
                _ => {}
            }
        }
        let writes = spec.steady_state.iter().any(|probe| matches!(probe, Probe::Linearizability { .. }));
        for (index, probe) in spec.steady_state.iter().enumerate() {
            let field = format!("spec.steadyState[{index}]");
            match probe {
                Probe::Linearizability { clients, keys } if *clients == 0 || *keys == 0 || *clients > 64 || *keys > 64 => {
                    return invalid(&field, "clients and keys must be between 1 and 64");
                }
                Probe::Available { .. } if !writes => return invalid(&field, "needs the probe `linearizability`, whose clients write"),
                Probe::PodsRunOn(_) if spec.faults.iter().any(|fault| fault.kind == Kind::KillMachine) => {
                    return invalid(&field, "containers do not outlive the machine that killMachine kills");
                }
                Probe::Api { path, .. } if !path.starts_with('/') => return invalid(&field, "the path must begin with a slash"),
                _ => {}
            }
        }
        if spec.abort_after.is_some() && !writes {
            return invalid("spec.abortAfter", "needs the probe `linearizability`, whose clients write");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&str) -> String, expected: &str) {
        let text = "
apiVersion: chaos.skein.dev/v1alpha1
kind: ChaosExperiment
metadata: {name: leader-dies}
spec:
  duration: 1m
  target: {role: leader}
  faults: [{type: killDaemon, every: 10s, duration: 2s}]
  steadyState: [{type: linearizability}, {type: available, within: 3s}]
";
        let found = Experiment::parse(&change(text)).map(|_| ()).map_err(|why| why.to_string());
        match found {
            Ok(()) => assert_eq!(expected, ""),
            Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{why}"),
        }
    }

    #[test]
    fn files_are_read_and_errors_named() {
        check(str::to_string, "");
        check(|text| text.replace("killDaemon", "meteor"), "unknown variant `meteor`");
        check(|text| text.replace("duration: 2s", "duration: 20s"), "spec.faults[0].duration: must be shorter than `every`");
        check(|text| text.replace("killDaemon", "links"), "links need a `delay`, or `lostPermille`");
        check(|text| text.replace("killDaemon", "links, delay: 100ms"), "");
        check(|text| text.replace("killDaemon", "links, lostPermille: 2000"), "at most 1000 of a thousand");
        check(|text| text.replace("killDaemon", "killDaemon, delay: 1s"), "are for `links`");
        check(|text| text.replace("killDaemon", "slowDisk"), "slowDisk needs `writesPerSecond`");
        check(|text| text.replace("killDaemon", "slowDisk, writesPerSecond: 20"), "");
        check(|text| text.replace("killDaemon", "killDaemon, timeOffset: 1h"), "shiftClock needs `timeOffset`, and no other");
        check(|text| text.replace("killDaemon", "shiftClock, timeOffset: -1h"), "");
        check(|text| text.replace("killDaemon", "shiftClock, timeOffset: later"), "is no offset of a clock");
        check(|text| text.replace("killDaemon", "fillDisk"), "");
        check(|text| text.replace("killDaemon", "killPod"), "killPod needs `target.pod`");
        check(|text| text.replace("killDaemon", "killPod").replace("role: leader", "pod: {selector: app=web}"), "");
        check(|text| text.replace("killDaemon", "partition, from: {zone: a}"), "");
        check(|text| text.replace("killDaemon", "killDaemon, from: {zone: a}"), "`from` is for faults of the network");
        check(|text| text.replace("1m", "soon"), "\"soon\" is not a duration");
        check(|text| text.replace("{type: linearizability}, ", ""), "needs the probe `linearizability`");
        check(|text| text.replace("chaos.skein.dev/v1alpha1", "v1"), "must be chaos.skein.dev/v1alpha1");
        check(|text| text.replace("role: leader", "rule: leader"), "unknown field `rule`");
        check(
            |text| {
                text.replace("killDaemon", "killMachine").replace("{type: linearizability}", "{type: podsRunOn}, {type: linearizability}")
            },
            "do not outlive",
        );
    }
}
