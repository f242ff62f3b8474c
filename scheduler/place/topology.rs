//! Pods counted by the domains that their nodes are in: what spreading and inter-Pod affinity stand on.

use std::collections::BTreeMap;

use skein_object::selector::{Labels, Selector};

use crate::demand::Occupant;

pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// The labels of each namespace.
pub(crate) type Namespaces = BTreeMap<String, Labels>;

/// Pods by their labels and by the names or labels of their namespaces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodSelector {
    pub(crate) namespaces: Vec<String>,
    pub(crate) namespace_selector: Option<Selector>,
    pub(crate) selector: Selector,
}

/// A term of Pod affinity or anti-affinity: these Pods, in one domain of this label of nodes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Term {
    pub(crate) key: String,
    pub(crate) pods: PodSelector,
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    pub(crate) key: String,
    pub(crate) selector: Selector,
    pub(crate) skew_max: i64,
    pub(crate) domains_min: usize,
    /// `DoNotSchedule`, rather than `ScheduleAnyway`.
    pub(crate) is_hard: bool,
    pub(crate) honors_affinity: bool,
    pub(crate) honors_taints: bool,
}

/// A number for each domain, and how often each number occurs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<String, i64>,
    histogram: BTreeMap<i64, usize>,
    total: i64,
}

// === impl PodSelector ===

impl PodSelector {
    pub(crate) fn matches(&self, pod: &Occupant, namespaces: &Namespaces) -> bool {
        let by_labels = || {
            let labels = namespaces.get(&pod.namespace);
            self.namespace_selector.as_ref().is_some_and(|selector| selector.matches_optional(labels))
        };
        (self.namespaces.contains(&pod.namespace) || by_labels()) && self.selector.matches(&pod.labels)
    }
}

// === impl Spread ===

impl Spread {
    pub(crate) fn counts(&self, pod: &Occupant, own: &Occupant) -> bool {
        pod.namespace == own.namespace && !pod.is_terminating && self.selector.matches(&pod.labels)
    }
}

// === impl Tally ===

impl Tally {
    /// A domain that counts although nothing is in it yet.
    pub(crate) fn open(&mut self, domain: &str) {
        if !self.counts.contains_key(domain) {
            self.counts.insert(domain.into(), 0);
            *self.histogram.entry(0).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, domain: &str, amount: i64) {
        self.open(domain);
        let Some(count) = self.counts.get_mut(domain) else { return };
        let before = *count;
        *count += amount;
        self.total += amount;
        *self.histogram.entry(*count).or_default() += 1;
        if let Some(same) = self.histogram.get_mut(&before) {
            *same -= 1;
            if *same == 0 {
                self.histogram.remove(&before);
            }
        }
    }

    pub(crate) fn has(&self, domain: &str) -> bool {
        self.counts.contains_key(domain)
    }

    pub(crate) fn count(&self, domain: &str) -> i64 {
        self.counts.get(domain).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> i64 {
        self.total
    }

    /// The smallest count, of at least so many domains; fewer count as an empty one.
    pub(crate) fn least(&self, domains_min: usize) -> i64 {
        if self.counts.len() < domains_min { 0 } else { self.histogram.keys().next().copied().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_follows_what_is_added_and_taken() {
        let mut tally = Tally::default();
        tally.open("a");
        tally.add("b", 2);
        assert_eq!((tally.least(1), tally.least(3), tally.total()), (0, 0, 2));
        tally.add("a", 3);
        assert_eq!((tally.least(2), tally.count("a"), tally.least(3)), (2, 3, 0));
        tally.add("b", -2);
        assert_eq!((tally.least(2), tally.total()), (0, 3));
    }
}
