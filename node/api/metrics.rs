//! `/metrics`: what this node's API has done, in Prometheus' format, under Kubernetes' names where there are any.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use http::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use skein_store::Handle;

use crate::fairness::{Fairness, Standing};
use crate::negotiate::Media;
use crate::{Body, respond};

/// The limits of `apiserver_request_duration_seconds`, a part of Kubernetes'.
const SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// What a request was. Resources are those that are served, so there are not more of these than of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    code: u16,
}

/// A priority level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    priority_level: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Encoding {
    encoding: &'static str,
}

/// The counters of one API.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    seats: Family<Level, Gauge>,
    executing: Family<Level, Gauge>,
    waiting: Family<Level, Gauge>,
    refused: Family<Refused, Counter>,
    encodings: Family<Encoding, Counter>,
    encoding_seconds: Family<Encoding, Counter<f64, AtomicU64>>,
    leads: Gauge,
    term: Gauge<f64, AtomicU64>,
    pace: Gauge<i64>,
    applied: Gauge<f64, AtomicU64>,
    revision: Gauge<f64, AtomicU64>,
    objects: Gauge,
    memory: Gauge,
    syncs: Counter,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let durations: Family<Asked, Histogram, fn() -> Histogram> = Family::new_with_constructor(|| Histogram::new(SECONDS));
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations,
            seats: Family::default(),
            executing: Family::default(),
            waiting: Family::default(),
            refused: Family::default(),
            encodings: Family::default(),
            encoding_seconds: Family::default(),
            leads: Gauge::default(),
            term: Gauge::default(),
            pace: Gauge::default(),
            applied: Gauge::default(),
            revision: Gauge::default(),
            objects: Gauge::default(),
            memory: Gauge::default(),
            syncs: Counter::default(),
        };
        let registry = &mut metrics.registry;
        // The encoder adds `_total` to a counter's name.
        registry.register("apiserver_request", "Requests by what was asked and how it was answered", metrics.requests.clone());
        registry.register("apiserver_request_duration_seconds", "How long answers took, watches left out", metrics.durations.clone());
        registry.register("apiserver_flowcontrol_nominal_limit_seats", "Seats of each priority level", metrics.seats.clone());
        registry.register("apiserver_flowcontrol_current_executing_seats", "Seats taken now", metrics.executing.clone());
        registry.register("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait for a seat", metrics.waiting.clone());
        registry.register("apiserver_flowcontrol_rejected_requests", "Requests that got no seat", metrics.refused.clone());
        registry.register(
            "skein_api_encoded_objects",
            "Objects that were encoded to be stored, for watchers, or not in JSON; others are copies of bytes",
            metrics.encodings.clone(),
        );
        registry.register("skein_api_encoding_seconds", "How long that took", metrics.encoding_seconds.clone());
        registry.register("skein_raft_leads", "Whether this node leads", metrics.leads.clone());
        registry.register("skein_raft_term", "The Raft term that this node knows", metrics.term.clone());
        registry.register(
            "skein_raft_pace",
            "How many times as long as on a fast network elections take, as measured",
            metrics.pace.clone(),
        );
        registry.register("skein_raft_applied_index", "The last log entry that this node has applied", metrics.applied.clone());
        registry.register("skein_log_syncs", "How often this node has synced its log", metrics.syncs.clone());
        registry.register("skein_state_revision", "The resourceVersion of this node's replica", metrics.revision.clone());
        registry.register("skein_state_objects", "Objects in this node's replica", metrics.objects.clone());
        registry.register("process_resident_memory_bytes", "Resident memory size in bytes", metrics.memory.clone());
        metrics
    }
}

impl Metrics {
    pub(crate) fn answered(&self, asked: &Asked, code: u16, took: Duration) {
        let Asked { verb, group, version, resource, subresource } = *asked;
        self.requests.get_or_create(&Answered { verb, group, version, resource, subresource, code }).inc();
        if asked.verb != "watch" {
            self.durations.get_or_create(asked).observe(took.as_secs_f64());
        }
    }

    /// Objects that were encoded since then.
    pub(crate) fn encoded(&self, media: Media, objects: usize, begin: Instant) {
        let encoding = Encoding { encoding: media.name() };
        self.encodings.get_or_create(&encoding).inc_by(objects as u64);
        self.encoding_seconds.get_or_create(&encoding).inc_by(begin.elapsed().as_secs_f64());
    }

    /// All of it, as it is now.
    pub(crate) fn show(&self, store: &Handle, fairness: &Fairness) -> Response<Body> {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for Standing { level, seats, taken, waiting } in fairness.standings() {
            let level = Level { priority_level: level };
            self.seats.get_or_create(&level).set(gauge(seats));
            self.executing.get_or_create(&level).set(gauge(taken));
            self.waiting.get_or_create(&level).set(gauge(waiting));
        }
        for ((priority_level, reason), count) in fairness.refused() {
            let counter = self.refused.get_or_create_owned(&Refused { priority_level, reason });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let (leadership, view) = (store.leadership(), store.local());
        self.leads.set(leadership.is_self.into());
        self.term.set(leadership.term as f64);
        self.pace.set(store.pace().into());
        self.applied.set(view.applied as f64);
        self.revision.set(view.state.revision() as f64);
        self.objects.set(i64::try_from(view.state.len()).unwrap_or(i64::MAX));
        self.memory.set(resident_bytes());
        self.syncs.inc_by(store.log_syncs().saturating_sub(self.syncs.get()));
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return respond::bytes(500, "text/plain; charset=utf-8", "the metrics cannot be written");
        }
        respond::bytes(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    }
}

fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<i64>().ok()).map_or(0, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_what_was_asked_and_answered() {
        let metrics = Metrics::default();
        let asked = |verb: &'static str| Asked { verb, group: "", version: "v1", resource: "pods", subresource: "" };
        metrics.answered(&asked("create"), 201, Duration::from_millis(3));
        metrics.answered(&asked("watch"), 200, Duration::from_secs(99));
        let mut text = String::new();
        encode(&mut text, &metrics.registry).expect("it can be written");
        let line = r#"apiserver_request_total{verb="create",group="",version="v1",resource="pods",subresource="",code="201"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains(r#"resource="pods",subresource=""} 1"#) && !text.contains(r#"duration_seconds_count{verb="watch""#),
            "{text}"
        );
    }
}
