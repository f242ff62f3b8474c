//! From what Pods use to the replicas that would use as much as is wanted (`replica_calculator.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use serde_json::{Value, json};
use skein_object::quantity::Quantity;
use skein_object::usage::Amounts;

use super::foreign::{self, ResourceOf};
use crate::Usage;
use crate::adapters::Adapters;
use crate::pods_of::{is_active, phase};
use crate::snapshot::Stored;

/// A Pod's CPU says nothing while it starts (`--horizontal-pod-autoscaler-cpu-initialization-period`), and one that has
/// never been ready is not counted for the first while (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const CPU_INITIALIZATION_SECONDS: i64 = 300;
const INITIAL_READINESS_SECONDS: i64 = 30;

/// A measurement that is older counts as missing.
const STALE_MS: i64 = 60_000;

const TOLERANCE: f64 = 0.1;

/// What a metric is held against.
pub(super) struct Around<'a> {
    pub(super) pods: &'a [&'a Stored<Pod>],
    pub(super) usage: &'a Usage,
    pub(super) adapters: &'a Adapters,
    pub(super) now: Timestamp,
    /// The autoscaler's namespace, and the selector of what it scales.
    pub(super) namespace: &'a str,
    pub(super) selector: &'a str,
    pub(super) resource_of: ResourceOf<'a>,
    /// The replicas that are wanted now, and those that there are.
    pub(super) current: i64,
    pub(super) found: i64,
    /// Down and up: a ratio within these bounds of 1 changes nothing.
    pub(super) tolerances: (f64, f64),
}

impl Around<'_> {
    pub(super) fn is_within_tolerances(&self, ratio: f64) -> bool {
        (1.0 - self.tolerances.0..=1.0 + self.tolerances.1).contains(&ratio)
    }
}

#[cfg(test)]
impl<'a> Around<'a> {
    /// No Pods, two replicas in the namespace `n`.
    pub(super) fn bare(usage: &'a Usage, adapters: &'a Adapters) -> Self {
        Self {
            pods: &[],
            usage,
            adapters,
            now: Timestamp::UNIX_EPOCH,
            namespace: "n",
            selector: "",
            resource_of: &|_| None,
            current: 2,
            found: 2,
            tolerances: (TOLERANCE, TOLERANCE),
        }
    }
}

pub(super) struct Proposal {
    pub(super) replicas: i64,
    pub(super) name: String,
    /// The entry of `status.currentMetrics`.
    pub(super) status: Value,
}

pub(super) type Failure = (&'static str, String);

/// What a Pod's number is, in thousandths; of CPU with the begin of the window that it is from.
pub(super) struct Measure {
    pub(super) milli: i128,
    pub(super) begin_ms: Option<i64>,
}

/// Pods by what their numbers are good for.
#[derive(Default)]
pub(super) struct Grouped<'a> {
    /// In thousandths of the resource's unit.
    pub(super) measured: BTreeMap<&'a str, i128>,
    ready: usize,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

pub(super) fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> (f64, f64) {
    let behavior = spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let stated = rules.and_then(|r| r.tolerance.as_ref()).and_then(|q| q.0.parse::<Quantity>().ok());
        stated.map_or(TOLERANCE, |q| q.milli() as f64 / 1000.0)
    };
    (of(behavior.and_then(|b| b.scale_down.as_ref())), of(behavior.and_then(|b| b.scale_up.as_ref())))
}

pub(super) fn propose(metric: &MetricSpec, around: &Around<'_>) -> Result<Proposal, Failure> {
    match metric.type_.as_str() {
        "Resource" => {
            let Some(source) = &metric.resource else { return Err(invalid(metric)) };
            let found = resource(&source.name, None, &source.target, around).map_err(|why| ("FailedGetResourceMetric", why))?;
            let status = json!({"type": "Resource", "resource": {"name": source.name, "current": found.1}});
            let name = name(&source.name, &source.target, "");
            Ok(Proposal { replicas: found.0, name, status })
        }
        "ContainerResource" => {
            let Some(source) = &metric.container_resource else { return Err(invalid(metric)) };
            let found = resource(&source.name, Some(&source.container), &source.target, around)
                .map_err(|why| ("FailedGetContainerResourceMetric", why))?;
            let status = json!({"type": "ContainerResource",
                "containerResource": {"name": source.name, "container": source.container, "current": found.1}});
            Ok(Proposal { replicas: found.0, name: name(&source.name, &source.target, "container "), status })
        }
        "Pods" | "Object" | "External" => foreign::propose(metric, around),
        _ => Err(invalid(metric)),
    }
}

fn invalid(metric: &MetricSpec) -> Failure {
    ("InvalidMetricSourceType", format!("unknown metric source type \"{}\"", metric.type_))
}

fn name(resource: &str, target: &MetricTarget, of: &str) -> String {
    if target.average_value.is_some() {
        format!("{resource} {of}resource")
    } else {
        format!("{resource} {of}resource utilization (percentage of request)")
    }
}

/// The replicas, and the value that stands in the status.
fn resource(resource: &str, container: Option<&str>, target: &MetricTarget, around: &Around<'_>) -> Result<(i64, Value), String> {
    if let Some(wanted) = target.average_value.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()) {
        let grouped = used(resource, container, around).map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        let wanted_of = |_: &str| Some(wanted.milli());
        let (replicas, mean, _) =
            calculate(&grouped, around, &wanted_of, 100).map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        return Ok((replicas, json!({"averageValue": shown(resource, mean)})));
    }
    let Some(percent) = target.average_utilization else {
        return Err(
            "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into()
        );
    };
    let failed = |why: String| format!("failed to get {resource} utilization: {why}");
    let grouped = used(resource, container, around).map_err(failed)?;
    let mut requests = BTreeMap::new();
    for pod in around.pods {
        requests.insert(pod.key.name(), request(&pod.object, resource, container).map_err(failed)?);
    }
    let wanted_of = |pod: &str| requests.get(pod).copied();
    let (replicas, mean, used) = calculate(&grouped, around, &wanted_of, percent.into()).map_err(failed)?;
    Ok((replicas, json!({"averageUtilization": used, "averageValue": shown(resource, mean)})))
}

/// What is requested, in thousandths.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i128, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let stated = spec.resources.as_ref().filter(|_| container.is_none()).and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
    if let Some(quantity) = stated.and_then(|q| q.0.parse::<Quantity>().ok()) {
        return Ok(quantity.milli());
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let counted: Vec<&Container> = spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == name)).collect();
    let mut sum = 0;
    for one in counted {
        let requests = one.resources.as_ref().and_then(|r| r.requests.as_ref());
        let Some(quantity) = requests.and_then(|r| r.get(resource)).and_then(|q| q.0.parse::<Quantity>().ok()) else {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(format!("missing request for {resource} in container {} of Pod {pod}", one.name));
        };
        sum += quantity.milli();
    }
    Ok(sum)
}

/// What each Pod uses, as its node has measured it.
fn used<'a>(resource: &str, container: Option<&str>, around: &Around<'a>) -> Result<Grouped<'a>, String> {
    let measure = |pod: &Stored<Pod>| {
        let node = pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let measured = around.usage.of_pod(node, pod.key.namespace(), pod.key.name());
        let measured = measured.filter(|m| around.now.as_millisecond() - m.time_ms < STALE_MS)?;
        let counted = measured.pod.containers.iter().filter(|c| container.is_none_or(|wanted| c.name == wanted));
        let amounts: Vec<Amounts> = counted.filter_map(|c| c.amounts).collect();
        Some(match resource {
            "cpu" => Measure {
                milli: amounts.iter().map(|a| i128::from(a.cpu_nano.div_ceil(1_000_000))).sum(),
                begin_ms: Some(measured.time_ms - measured.window_ms),
            },
            _ => Measure { milli: amounts.iter().map(|a| i128::from(a.memory_bytes) * 1000).sum(), begin_ms: None },
        })
    };
    let grouped = group(around, &measure)?;
    if grouped.measured.is_empty() {
        return Err(if grouped.unready.is_empty() {
            format!("unable to get metrics for resource {resource}: no metrics returned from resource metrics API")
        } else {
            "did not receive metrics for targeted pods (pods might be unready)".into()
        });
    }
    Ok(grouped)
}

/// `groupPods`: which Pods' numbers count.
pub(super) fn group<'a>(around: &Around<'a>, measure: &dyn Fn(&Stored<Pod>) -> Option<Measure>) -> Result<Grouped<'a>, String> {
    if around.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let mut grouped = Grouped::default();
    for pod in around.pods {
        let (object, name) = (&pod.object, pod.key.name());
        if !is_active(object) {
            continue;
        }
        if phase(object) == "Pending" {
            grouped.unready.push(name);
            continue;
        }
        let Some(measured) = measure(pod) else {
            grouped.missing.push(name);
            continue;
        };
        if measured.begin_ms.is_some_and(|begin| is_unready(object, around.now, begin)) {
            grouped.unready.push(name);
            continue;
        }
        grouped.measured.insert(name, measured.milli);
        grouped.ready += 1;
    }
    Ok(grouped)
}

/// Whether a Pod's CPU is still that of its start.
fn is_unready(pod: &Pod, now: Timestamp, window_start_ms: i64) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == "Ready"));
    let started = status.and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let is_ready = ready.status == "True";
    let changed = |condition: &PodCondition| condition.last_transition_time.as_ref().map_or(0, |t| t.0.as_second());
    if started + CPU_INITIALIZATION_SECONDS > now.as_second() {
        !is_ready || window_start_ms < changed(ready) * 1000
    } else {
        !is_ready && started + INITIAL_READINESS_SECONDS > changed(ready)
    }
}

/// The replicas, the mean use in thousandths, and how many percent of what is wanted that is.
pub(super) fn calculate(
    grouped: &Grouped<'_>,
    around: &Around<'_>,
    wanted_of: &dyn Fn(&str) -> Option<i128>,
    percent: i128,
) -> Result<(i64, i128, i128), String> {
    let measured = &grouped.measured;
    let (ratio, used) = ratio(measured, wanted_of, percent)?;
    let mean = measured.values().sum::<i128>() / i128::try_from(measured.len()).unwrap_or(1).max(1);
    let with_unready = !grouped.unready.is_empty() && ratio > 1.0;
    let up = |ratio: f64, pods: usize| (ratio * pods as f64).ceil() as i64;
    if !with_unready && grouped.missing.is_empty() {
        return Ok((if around.is_within_tolerances(ratio) { around.current } else { up(ratio, grouped.ready) }, mean, used));
    }
    let mut all = measured.clone();
    for pod in &grouped.missing {
        // On the way down they are taken to use all that is wanted, on the way up nothing.
        let guess = if ratio < 1.0 { wanted_of(pod).unwrap_or(0) * percent.max(100) / 100 } else { 0 };
        if ratio != 1.0 {
            all.insert(pod, guess);
        }
    }
    if with_unready {
        all.extend(grouped.unready.iter().map(|pod| (*pod, 0)));
    }
    let (cautious, _) = self::ratio(&all, wanted_of, percent)?;
    let turns = (ratio < 1.0 && cautious > 1.0) || (ratio > 1.0 && cautious < 1.0);
    let replicas = up(cautious, all.len());
    let strays = (cautious < 1.0 && replicas > around.current) || (cautious > 1.0 && replicas < around.current);
    Ok((if around.is_within_tolerances(cautious) || turns || strays { around.current } else { replicas }, mean, used))
}

/// What is used as a share of what is wanted, and in percent of what `wanted_of` gives.
fn ratio(measured: &BTreeMap<&str, i128>, wanted_of: &dyn Fn(&str) -> Option<i128>, percent: i128) -> Result<(f64, i128), String> {
    let (mut used, mut wanted) = (0, 0);
    for (pod, amount) in measured {
        if let Some(of) = wanted_of(pod) {
            used += amount;
            wanted += of;
        }
    }
    if wanted == 0 {
        return Err("no metrics returned matched known pods".into());
    }
    let utilization = used * 100 / wanted;
    Ok((utilization as f64 / percent as f64, utilization))
}

fn shown(resource: &str, milli: i128) -> String {
    if resource == "memory" {
        Quantity::from_milli(milli / 1000 * 1000).to_string()
    } else {
        skein_object::quantity::canonical(&format!("{milli}m")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(used: &[i128], unready: usize, missing: usize, current: i64, expected: i64) {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut grouped = Grouped { ready: used.len(), ..Grouped::default() };
        grouped.measured = names.into_iter().zip(used.iter().copied()).collect();
        grouped.unready = names[used.len()..used.len() + unready].to_vec();
        grouped.missing = names[used.len() + unready..used.len() + unready + missing].to_vec();
        let (usage, adapters) = (Usage::default(), Adapters::default());
        let around = Around { current, found: current, ..Around::bare(&usage, &adapters) };
        // Each requests 100m and may use half of it.
        let (replicas, ..) = calculate(&grouped, &around, &|_| Some(100), 50).expect("replicas");
        assert_eq!(replicas, expected, "{used:?} {unready} {missing}");
    }

    #[test]
    fn follows_the_cases_of_the_replica_calculator() {
        check(&[100, 100], 0, 0, 2, 4);
        check(&[52, 50], 0, 0, 2, 2);
        check(&[10, 10, 10], 0, 0, 3, 1);
        // Pods that are not ready yet hold a scale-up back.
        check(&[100], 2, 0, 3, 3);
        // Missing ones hold a scale-down back.
        check(&[10], 0, 2, 3, 3);
        check(&[100, 100], 0, 1, 3, 4);
    }
}
