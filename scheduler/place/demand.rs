//! What a Pod asks of the fleet, compiled once for all Pods that ask the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Container, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skein_object::amounts::{Amounts, add, peak};
use skein_object::quantity::Quantity;
use skein_object::selector::{Labels, Selector};

use crate::filters::volumes::{Held, Reach, Volumes};
use crate::profile::Profile;
use crate::topology::{HOSTNAME, PodSelector, Spread, Term, ZONE};

/// What a container that states no request weighs in scores (`DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_CPU_MILLI: i128 = 100;
const DEFAULT_MEMORY: i128 = 200 << 20;

/// Labels that differ between the Pods or generations of one set and so say nothing about likeness.
const IGNORED: &[&str] = &["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "controller-revision-hash"];

/// What a Pod takes on its node, and what it wants of Pods near it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Occupant {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) requests: Amounts,
    /// CPU in thousandths and memory in bytes, with the usual amount where nothing is requested.
    pub(crate) weight: (i128, i128),
    pub(crate) host_ports: Vec<(i32, String)>,
    pub(crate) volumes: BTreeSet<Held>,
    pub(crate) priority: i32,
    pub(crate) start: String,
    pub(crate) is_terminating: bool,
    /// It does not run here yet: room is kept for it until its victims are gone.
    pub(crate) is_nominated: bool,
    pub(crate) affinity: Vec<Term>,
    pub(crate) anti_affinity: Vec<Term>,
    /// Preferences and their weights; of anti-affinity below zero.
    pub(crate) preferred: Vec<(i64, Term)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Demand {
    pub(crate) occupant: Arc<Occupant>,
    pub(crate) spec: PodSpec,
    pub(crate) spread: Vec<Spread>,
    pub(crate) images: Vec<String>,
    pub(crate) reach: Vec<Reach>,
    pub(crate) drivers: BTreeSet<String>,
    pub(crate) profile: Arc<Profile>,
}

// === impl Demand ===

impl Demand {
    pub(crate) fn of(pod: &Pod, volumes: &Volumes, profile: Arc<Profile>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let occupant = Occupant::of(pod, volumes);
        let spread = spread(&spec, &occupant, &profile);
        let images = spec.containers.iter().filter_map(|c| c.image.as_deref().map(normalized)).collect();
        let Volumes { reach, drivers, .. } = volumes.clone();
        Self { occupant: Arc::new(occupant), spec, spread, images, reach, drivers, profile }
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec.tolerations.as_deref().unwrap_or_default()
    }

    /// A text that is equal for Pods that ask the same of the fleet.
    pub(crate) fn class_of(pod: &Pod, volumes: &Volumes) -> String {
        let Some(spec) = &pod.spec else { return String::new() };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let parts: Vec<_> = containers.map(|c| (&c.image, &c.resources, &c.ports, &c.restart_policy)).collect();
        let place = (&spec.node_name, &spec.node_selector, &spec.affinity, &spec.tolerations, &spec.topology_spread_constraints);
        format!(
            "{:?}",
            (
                (&spec.scheduler_name, &pod.metadata.namespace, &pod.metadata.labels),
                (place, spec.priority, &spec.overhead, &spec.resources, parts, volumes)
            )
        )
    }
}

// === impl Occupant ===

impl Occupant {
    pub(crate) fn of(pod: &Pod, volumes: &Volumes) -> Self {
        let spec = pod.spec.as_ref();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let terms = spec.and_then(|s| s.affinity.as_ref()).map(|affinity| terms(affinity, &namespace, &labels)).unwrap_or_default();
        Self {
            requests: requests(pod),
            weight: spec.map(weight).unwrap_or_default(),
            host_ports: spec.map(host_ports).unwrap_or_default(),
            volumes: volumes.held.clone(),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            start: pod.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default(),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_nominated: spec.is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty()),
            affinity: terms.required,
            anti_affinity: terms.forbidden,
            preferred: terms.preferred,
            namespace,
            labels,
        }
    }
}

#[derive(Default)]
struct Terms {
    required: Vec<Term>,
    forbidden: Vec<Term>,
    preferred: Vec<(i64, Term)>,
}

fn terms(affinity: &Affinity, namespace: &str, labels: &Labels) -> Terms {
    let mut terms = Terms::default();
    if let Some(near) = &affinity.pod_affinity {
        let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
        terms.required = required.map(|t| term(t, namespace, labels)).collect();
        for wish in near.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
            terms.preferred.push((wish.weight.into(), term(&wish.pod_affinity_term, namespace, labels)));
        }
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
        terms.forbidden = required.map(|t| term(t, namespace, labels)).collect();
        for wish in far.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
            terms.preferred.push((-i64::from(wish.weight), term(&wish.pod_affinity_term, namespace, labels)));
        }
    }
    terms
}

fn term(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Term {
    let mut selector = term.label_selector.as_ref().map_or_else(Selector::nothing, Selector::from_label_selector);
    narrow(&mut selector, labels, term.match_label_keys.as_deref(), "In");
    narrow(&mut selector, labels, term.mismatch_label_keys.as_deref(), "NotIn");
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    let namespace_selector = term.namespace_selector.as_ref().map(Selector::from_label_selector);
    if namespaces.is_empty() && namespace_selector.is_none() {
        namespaces.push(namespace.into());
    }
    Term { key: term.topology_key.clone(), pods: PodSelector { namespaces, namespace_selector, selector } }
}

/// `matchLabelKeys` and `mismatchLabelKeys`: the Pod's own values of these labels join the selector (KEP-3633).
fn narrow(selector: &mut Selector, labels: &Labels, keys: Option<&[String]>, operator: &str) {
    for key in keys.unwrap_or_default() {
        if let Some(value) = labels.get(key) {
            selector.require(key, operator, std::slice::from_ref(value));
        }
    }
}

/// The Pod's own constraints; where it has none, the profile's or the cluster's: its like spread over nodes and zones,
/// softly.
fn spread(spec: &PodSpec, occupant: &Occupant, profile: &Profile) -> Vec<Spread> {
    let stated = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    if !stated.is_empty() {
        return stated.iter().map(|constraint| constrained(constraint, occupant)).collect();
    }
    let alike: Labels =
        occupant.labels.iter().filter(|(key, _)| !IGNORED.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    if alike.is_empty() {
        return Vec::new();
    }
    if let Some(constraints) = &profile.spread {
        let of_its_like = |constraint| Spread { selector: Selector::from_map(&alike), ..constrained(constraint, occupant) };
        return constraints.iter().map(of_its_like).collect();
    }
    let soft = |key: &str| Spread {
        key: key.into(),
        selector: Selector::from_map(&alike),
        skew_max: 1,
        domains_min: 1,
        is_hard: false,
        honors_affinity: true,
        honors_taints: false,
    };
    vec![soft(HOSTNAME), soft(ZONE)]
}

fn constrained(constraint: &TopologySpreadConstraint, occupant: &Occupant) -> Spread {
    let mut selector = constraint.label_selector.as_ref().map_or_else(Selector::nothing, Selector::from_label_selector);
    narrow(&mut selector, &occupant.labels, constraint.match_label_keys.as_deref(), "In");
    Spread {
        key: constraint.topology_key.clone(),
        selector,
        skew_max: constraint.max_skew.into(),
        domains_min: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
        is_hard: constraint.when_unsatisfiable == "DoNotSchedule",
        honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// What a Pod takes of a node: what its containers ask for, or what it states for itself as a whole instead, where it
/// does (KEP-2837); its overhead; one Pod.
fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let of = |c: &Container| amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let inits = spec.init_containers.iter().flatten().map(|c| (of(c), c.restart_policy.as_deref() == Some("Always")));
    let mut total = peak(inits, spec.containers.iter().map(of));
    total.extend(amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref())));
    add(&mut total, amounts(spec.overhead.as_ref()));
    total.insert("pods".into(), Quantity::from_units(1));
    total
}

fn weight(spec: &PodSpec) -> (i128, i128) {
    let of = |container: &Container| {
        let requests = amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
        let cpu = requests.get("cpu").map_or(DEFAULT_CPU_MILLI, |q| q.milli());
        (cpu, requests.get("memory").map_or(DEFAULT_MEMORY, |q| q.units()))
    };
    spec.containers.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn host_ports(spec: &PodSpec) -> Vec<(i32, String)> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|p| Some((p.host_port.filter(|n| *n > 0)?, p.protocol.clone().unwrap_or_else(|| "TCP".into())))).collect()
}

pub(crate) fn amounts(texts: Option<&BTreeMap<String, Text>>) -> Amounts {
    texts.into_iter().flatten().filter_map(|(name, text)| Some((name.clone(), text.0.parse().ok()?))).collect()
}

/// An image's name with its tag, as nodes report it: without the default registry, which nodes leave out or not.
pub(crate) fn normalized(image: &str) -> String {
    let short = image.trim_start_matches("docker.io/").trim_start_matches("library/");
    let has_tag = short.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    if has_tag { short.into() } else { format!("{short}:latest") }
}
