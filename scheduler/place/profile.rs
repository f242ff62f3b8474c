//! What a scheduler of one name goes by: a profile of KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).
//!
//! One scheduler places the Pods of all profiles, so none takes room that another has just given away.

mod read;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};

/// Where nothing else is said.
pub(crate) const DEFAULT: &str = "default-scheduler";

#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The `schedulerName` of its Pods.
    pub name: String,
    pub(crate) weights: Weights,
    /// Filters that nodes need not pass, by the names of Kubernetes' plugins.
    pub(crate) without: BTreeSet<&'static str>,
    /// Whether less important Pods have to make room.
    pub(crate) preempts: bool,
    /// NodeResourcesFit: what is not looked at, as whole names and as groups, and how what is there is scored.
    pub(crate) ignored_resources: BTreeSet<String>,
    pub(crate) ignored_groups: BTreeSet<String>,
    pub(crate) strategy: Strategy,
    pub(crate) scored: Vec<Weighted>,
    /// NodeResourcesBalancedAllocation.
    pub(crate) balanced: Vec<String>,
    /// InterPodAffinity: what the required affinity of Pods that are there weighs as a wish.
    pub(crate) hard_affinity_weight: i64,
    /// NodeAffinity: beside what Pods say themselves.
    pub(crate) added_affinity: NodeAffinity,
    /// PodTopologySpread: of Pods that state none; `None` is the cluster's own.
    pub(crate) spread: Option<Vec<TopologySpreadConstraint>>,
}

/// How much each score counts; those of Kubernetes by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    pub(crate) taints: i64,
    pub(crate) node_affinity: i64,
    pub(crate) fit: i64,
    pub(crate) spread: i64,
    pub(crate) pod_affinity: i64,
    pub(crate) balance: i64,
    pub(crate) images: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Points of how much is used, in percent, and what that scores, from 0 to 10; in between in straight lines.
    RequestedToCapacityRatio(Vec<(i128, i128)>),
}

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weighted {
    pub(crate) name: String,
    pub(crate) weight: i128,
}

impl Default for Weights {
    fn default() -> Self {
        Self { taints: 3, node_affinity: 2, fit: 1, spread: 2, pod_affinity: 2, balance: 1, images: 1 }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: DEFAULT.into(),
            weights: Weights::default(),
            without: BTreeSet::new(),
            preempts: true,
            ignored_resources: BTreeSet::new(),
            ignored_groups: BTreeSet::new(),
            strategy: Strategy::LeastAllocated,
            scored: ["cpu", "memory"].map(|name| Weighted { name: name.into(), weight: 1 }).into(),
            balanced: ["cpu", "memory"].map(String::from).into(),
            hard_affinity_weight: 1,
            added_affinity: NodeAffinity::default(),
            spread: None,
        }
    }
}

// === impl Profile ===

impl Profile {
    /// The profiles of a KubeSchedulerConfiguration, or what is wrong with it in Kubernetes' words.
    pub fn read(yaml: &str) -> Result<Vec<Self>, String> {
        read::profiles(yaml)
    }

    pub(crate) fn filters_by(&self, plugin: &str) -> bool {
        !self.without.contains(plugin)
    }

    pub(crate) fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map(|(group, _)| group);
        self.ignored_resources.contains(resource) || group.is_some_and(|group| self.ignored_groups.contains(group))
    }
}
