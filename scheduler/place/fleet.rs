//! The nodes and what is on each, kept incrementally; and for each kind of Pod the nodes in the order of their merit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use skein_object::amounts::Amounts;
use skein_object::quantity::Quantity;
use skein_object::selector::Labels;

use crate::class::Class;
use crate::demand::{Demand, Occupant, amounts, normalized};
use crate::filters::volumes::{Held, Volumes};
use crate::profile::{self, Profile};
use crate::topology::Namespaces;
use crate::{Placement, explain};

/// Classes that are kept ready; the one that was asked for longest ago goes first.
const CLASSES_MAX: usize = 64;

/// Changes remembered for classes that have not seen them; a class further behind is made anew.
const CHANGES_MAX: usize = 1 << 16;

/// Placements against one snapshot are made on a fleet, and recorded in it.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<Arc<str>, NodeInfo>,
    /// The node of each Pod that occupies one, by `namespace/name`.
    pods: BTreeMap<String, Arc<str>>,
    pub(crate) namespaces: Namespaces,
    /// By the names of schedulers; where there are none, the default.
    profiles: BTreeMap<String, Arc<Profile>>,
    classes: BTreeMap<String, (u64, Class)>,
    changes: VecDeque<Change>,
    /// The number of the first remembered change.
    changes_start: u64,
    placements: u64,
}

/// A Pod came to a node or went.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) node: Arc<str>,
    pub(crate) occupant: Arc<Occupant>,
    /// 1 or -1.
    pub(crate) amount: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    pub name: String,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) known: bool,
    pub(crate) allocatable: Amounts,
    /// Bytes of each image that is there.
    pub(crate) images: BTreeMap<String, i64>,
    /// CSI drivers that are there, and how many volumes each can take, where it says so.
    pub(crate) drivers: BTreeMap<String, Option<usize>>,
    /// Volumes that are attached, whoever uses them.
    pub(crate) attached: BTreeSet<Held>,
    pub(crate) requested: Amounts,
    pub(crate) weight: (i128, i128),
    pub(crate) pods: BTreeMap<String, Arc<Occupant>>,
}

// === impl Fleet ===

impl Fleet {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.known)
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = (&Arc<str>, &NodeInfo)> {
        self.nodes.iter().filter(|(_, node)| node.known)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|node| node.known)
    }

    pub fn observe_node(&mut self, node: &Node) {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default();
        let known = self.nodes.entry(Arc::clone(&name)).or_default();
        let seen = NodeInfo {
            name: name.to_string(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            known: true,
            allocatable: amounts(status.and_then(|s| s.allocatable.as_ref())),
            images: images
                .iter()
                .flat_map(|image| image.names.iter().flatten().map(|name| (normalized(name), image.size_bytes.unwrap_or(0))))
                .collect(),
            drivers: std::mem::take(&mut known.drivers),
            attached: std::mem::take(&mut known.attached),
            requested: std::mem::take(&mut known.requested),
            weight: known.weight,
            pods: std::mem::take(&mut known.pods),
        };
        let is_same = (&seen.labels, &seen.taints, seen.unschedulable, seen.known, &seen.allocatable, &seen.images)
            == (&known.labels, &known.taints, known.unschedulable, known.known, &known.allocatable, &known.images);
        *known = seen;
        if !is_same {
            self.classes.clear();
        }
    }

    /// The drivers of a node, each with the number of volumes that it can take.
    pub fn observe_drivers(&mut self, node: &str, drivers: BTreeMap<String, Option<usize>>) {
        let known = self.nodes.entry(node.into()).or_default();
        if known.drivers != drivers {
            known.drivers = drivers;
            self.classes.clear();
        }
    }

    /// The volumes that are attached to a node.
    pub fn observe_attached(&mut self, node: &str, attached: BTreeSet<Held>) {
        let known = self.nodes.entry(node.into()).or_default();
        if known.attached != attached {
            known.attached = attached;
            self.classes.clear();
        }
    }

    pub fn forget_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.known = false;
            self.classes.clear();
        }
    }

    /// Whose Pods are placed here, and how.
    pub fn observe_profiles(&mut self, profiles: Vec<Profile>) {
        self.profiles = profiles.into_iter().map(|profile| (profile.name.clone(), Arc::new(profile))).collect();
        self.classes.clear();
    }

    /// Whether a Pod is to be placed here.
    pub fn is_for(&self, pod: &Pod) -> bool {
        let name = scheduler(pod);
        if self.profiles.is_empty() { name == profile::DEFAULT } else { self.profiles.contains_key(name) }
    }

    pub(crate) fn profile(&self, pod: &Pod) -> Arc<Profile> {
        self.profiles.get(scheduler(pod)).cloned().unwrap_or_default()
    }

    /// The labels of a namespace, which terms of affinity may select by; `None` when it is gone.
    pub fn observe_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels),
            None => self.namespaces.remove(name),
        };
        self.classes.clear();
    }

    /// A Pod as it is in the snapshot: it occupies its node, or the one that it is nominated for, until it has ended.
    pub fn observe_pod(&mut self, pod: &Pod, volumes: &Volumes) {
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|node| !node.is_empty());
        let node = bound.or_else(|| nominated(pod).filter(|_| pod.metadata.deletion_timestamp.is_none()));
        match node.filter(|_| phase != "Succeeded" && phase != "Failed") {
            Some(node) => self.assume(pod, volumes, node),
            None => self.forget(&key(pod)),
        }
    }

    /// Counts a Pod on a node, before or after it is bound there.
    pub fn assume(&mut self, pod: &Pod, volumes: &Volumes, node: &str) {
        let key = key(pod);
        let occupant = Occupant { is_nominated: nominated(pod) == Some(node) && is_unbound(pod), ..Occupant::of(pod, volumes) };
        let known = self.pods.get(&key).filter(|known| ***known == *node).and_then(|known| self.nodes[known].pods.get(&key));
        if known.is_some_and(|known| **known == occupant) {
            return;
        }
        self.forget(&key);
        let name: Arc<str> = self.nodes.get_key_value(node).map_or_else(|| node.into(), |(name, _)| Arc::clone(name));
        let info = self.nodes.entry(Arc::clone(&name)).or_default();
        let occupant = Arc::new(occupant);
        info.count(&occupant, 1);
        info.pods.insert(key.clone(), Arc::clone(&occupant));
        self.pods.insert(key, Arc::clone(&name));
        self.remember(Change { node: name, occupant, amount: 1 });
    }

    /// Frees what the Pod `namespace/name` occupies.
    pub fn forget(&mut self, pod: &str) {
        let Some(node) = self.pods.remove(pod) else { return };
        let Some(info) = self.nodes.get_mut(&node) else { return };
        let Some(occupant) = info.pods.remove(pod) else { return };
        info.count(&occupant, -1);
        self.remember(Change { node, occupant, amount: -1 });
    }

    /// Chooses a node for a Pod and its volumes.
    pub fn place(&mut self, pod: &Pod, volumes: &Volumes) -> Placement {
        let reserved = self.release(pod);
        let placement = self.with_class((pod, volumes), |class, fleet| match class.choose(fleet) {
            Some(node) => Placement::Node(node.to_string()),
            None => Placement::Unschedulable(explain(fleet.nodes().count(), &class.reasons(fleet))),
        });
        if let (Some(node), Placement::Unschedulable(_)) = (reserved, &placement) {
            self.assume(pod, volumes, node);
        }
        placement
    }

    /// Gives up the room that is kept for a Pod while a place is sought for it; returns the node that it was on.
    pub(crate) fn release<'a>(&mut self, pod: &'a Pod) -> Option<&'a str> {
        let reserved = nominated(pod).filter(|_| is_unbound(pod));
        if reserved.is_some() {
            self.forget(&key(pod));
        }
        reserved
    }

    /// Runs `look` on the class of a Pod, brought up to date.
    pub(crate) fn with_class<T>(&mut self, (pod, volumes): (&Pod, &Volumes), look: impl FnOnce(&Class, &Self) -> T) -> T {
        let name = Demand::class_of(pod, volumes);
        self.placements += 1;
        let known = self.classes.remove(&name).map(|(_, class)| class).filter(|class| class.seen >= self.changes_start);
        let mut class = known.unwrap_or_else(|| Class::of(Demand::of(pod, volumes, self.profile(pod)), self));
        class.catch_up(self);
        let found = look(&class, self);
        if self.classes.len() >= CLASSES_MAX
            && let Some(oldest) = self.classes.iter().min_by_key(|(_, (used, _))| *used).map(|(name, _)| name.clone())
        {
            self.classes.remove(&oldest);
        }
        self.classes.insert(name, (self.placements, class));
        found
    }

    /// The number that the next change will have.
    pub(crate) fn changes_end(&self) -> u64 {
        self.changes_start + self.changes.len() as u64
    }

    /// The changes from a number on.
    pub(crate) fn changes_since(&self, seen: u64) -> impl Iterator<Item = &Change> {
        let skip = usize::try_from(seen.saturating_sub(self.changes_start)).unwrap_or(usize::MAX);
        self.changes.range(skip.min(self.changes.len())..)
    }

    fn remember(&mut self, change: Change) {
        if self.classes.is_empty() {
            self.changes_start = self.changes_end() + 1;
            self.changes.clear();
            return;
        }
        self.changes.push_back(change);
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
            self.changes_start += 1;
        }
    }
}

// === impl NodeInfo ===

impl NodeInfo {
    fn count(&mut self, occupant: &Occupant, sign: i128) {
        for (name, amount) in &occupant.requests {
            let sum = self.requested.get(name).copied().unwrap_or_default() + Quantity::from_milli(sign * amount.milli());
            self.requested.insert(name.clone(), sum);
        }
        self.weight.0 += sign * occupant.weight.0;
        self.weight.1 += sign * occupant.weight.1;
    }
}

pub(crate) fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// The name of the scheduler that a Pod wants.
pub fn scheduler(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(profile::DEFAULT)
}

pub(crate) fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).filter(|node| !node.is_empty())
}

fn is_unbound(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default().is_empty()
}
