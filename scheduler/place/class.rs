//! One kind of Pod and the nodes in the order of their merit for it.
//!
//! Placing many Pods that ask the same costs little: what a placement changes is one node's standing and a few counts,
//! so that the next Pod finds the order ready.
//!
//! ```text
//!   node ── filters, scores ──▶ Standing ──▶ group (its zone and the like) ──▶ nodes by score
//!   a Pod comes or goes ──▶ tallies by domain ──▶ that node's standing anew
//!   choose: of each group the first node that the tallies allow; of these the best
//! ```
//!
//! What depends on a node alone, its own name as a domain included, is in its score. What depends on wider domains is
//! added to the whole group, since it is the same for all of its nodes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::demand::{Demand, Occupant};
use crate::filters::{self, Refusal};
use crate::fleet::{Change, Fleet, NodeInfo};
use crate::scores;
use crate::topology::{HOSTNAME, Namespaces, Spread, Tally, Term};

/// A group's name: the node's values of the topology keys that matter to the class.
type Domains = Vec<Option<String>>;

/// Nodes, the best first.
type Ranking = BTreeSet<(Reverse<i64>, Arc<str>)>;

#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) demand: Demand,
    /// The first change of the fleet that is not in here yet.
    pub(crate) seen: u64,
    keys: Vec<String>,
    standings: BTreeMap<Arc<str>, Standing>,
    groups: BTreeMap<Domains, Ranking>,
    spread: Vec<(Spread, Tally)>,
    affinity: Vec<(Term, Tally)>,
    anti_affinity: Vec<(Term, Tally)>,
    preferred: Vec<(i64, Term, Tally)>,
    /// How Pods that are there see Pods of this class, by topology key.
    seen_by: BTreeMap<String, Regard>,
}

/// The wishes of Pods that are there about Pods of a class.
#[derive(Clone, Debug, Default)]
struct Regard {
    /// Pods that will have none of the class in their domain.
    refuse: Tally,
    /// The weight of those that prefer it near, less that of those that do not.
    welcome: Tally,
}

#[derive(Clone, Debug)]
enum Standing {
    Fits { domains: Domains, score: i64 },
    Refused(Refusal),
}

// === impl Class ===

impl Class {
    pub(crate) fn of(demand: Demand, fleet: &Fleet) -> Self {
        let own = Arc::clone(&demand.occupant);
        let terms = own.affinity.iter().chain(&own.anti_affinity).map(|t| &t.key).chain(own.preferred.iter().map(|(_, t)| &t.key));
        let keys: BTreeSet<&String> = terms.chain(demand.spread.iter().map(|s| &s.key)).filter(|key| *key != HOSTNAME).collect();
        let tallied = |terms: &[Term]| terms.iter().map(|term| (term.clone(), Tally::default())).collect();
        let mut class = Self {
            seen: fleet.changes_end(),
            keys: keys.into_iter().cloned().collect(),
            standings: BTreeMap::new(),
            groups: BTreeMap::new(),
            spread: demand.spread.iter().map(|spread| (spread.clone(), Tally::default())).collect(),
            affinity: tallied(&own.affinity),
            anti_affinity: tallied(&own.anti_affinity),
            preferred: own.preferred.iter().map(|(weight, term)| (*weight, term.clone(), Tally::default())).collect(),
            seen_by: BTreeMap::new(),
            demand,
        };
        for (_, node) in fleet.named() {
            class.open_domains(node);
            for occupant in node.pods.values() {
                class.count(node, occupant, 1, &fleet.namespaces);
            }
        }
        for (name, node) in fleet.named() {
            class.stand(name, node);
        }
        class
    }

    /// Takes in what has come and gone since the class was last looked at.
    pub(crate) fn catch_up(&mut self, fleet: &Fleet) {
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        for Change { node, occupant, amount } in fleet.changes_since(self.seen) {
            if let Some(info) = fleet.node(node) {
                self.count(info, occupant, *amount, &fleet.namespaces);
                touched.insert(Arc::clone(node));
            }
        }
        self.seen = fleet.changes_end();
        for name in touched {
            if let Some(node) = fleet.node(&name) {
                self.stand(&name, node);
            }
        }
    }

    /// The best node, if any will do. Names break ties, so that equal nodes are chosen in one order everywhere.
    pub(crate) fn choose(&self, fleet: &Fleet) -> Option<Arc<str>> {
        let mut best: Option<(i64, &Arc<str>)> = None;
        for nodes in self.groups.values() {
            let mut bonus = None;
            for (Reverse(score), name) in nodes {
                let Some(node) = fleet.node(name) else { continue };
                let total = score + *bonus.get_or_insert_with(|| self.wide_score(node));
                if best.is_some_and(|(top, chosen)| (Reverse(top), chosen) <= (Reverse(total), name)) {
                    break;
                }
                match self.allows(node, &[], &fleet.namespaces) {
                    Ok(()) => {
                        best = Some((total, name));
                        break;
                    }
                    // What a wide domain refuses, it refuses to all of the group.
                    Err(refusal) if refusal.key.as_ref().is_some_and(|key| self.keys.contains(key)) => break,
                    Err(_) => {}
                }
            }
        }
        best.map(|(_, name)| Arc::clone(name))
    }

    /// How many nodes refuse for which reason, when none will do.
    pub(crate) fn reasons(&self, fleet: &Fleet) -> BTreeMap<Cow<'static, str>, usize> {
        let mut reasons = BTreeMap::new();
        for (name, _) in fleet.named() {
            for text in self.refusal(fleet, name).into_iter().flat_map(|refusal| refusal.texts) {
                *reasons.entry(text).or_default() += 1;
            }
        }
        reasons
    }

    /// Why a node will not do, if it will not.
    pub(crate) fn refusal(&self, fleet: &Fleet, name: &str) -> Option<Refusal> {
        match self.standings.get(name)? {
            Standing::Refused(refusal) => Some(refusal.clone()),
            Standing::Fits { .. } => self.allows(fleet.node(name)?, &[], &fleet.namespaces).err(),
        }
    }

    /// Whether the Pod fits on a node once some of those there have gone.
    pub(crate) fn fits_without(&self, node: &NodeInfo, gone: &[&Occupant], namespaces: &Namespaces) -> bool {
        filters::check(node, &self.demand, gone).is_ok() && self.allows(node, gone, namespaces).is_ok()
    }

    /// Domains count for a spread as soon as there is a node that the Pod might go to.
    fn open_domains(&mut self, node: &NodeInfo) {
        for index in 0..self.spread.len() {
            if !self.is_eligible(&self.spread[index].0, node) {
                continue;
            }
            let (spread, tally) = &mut self.spread[index];
            if let Some(domain) = node.labels.get(&spread.key) {
                tally.open(domain);
            }
        }
    }

    /// Whether a node's Pods count for a spread (KEP-3094); all keys of the hard constraints must be there.
    fn is_eligible(&self, spread: &Spread, node: &NodeInfo) -> bool {
        let has_keys =
            self.spread.iter().filter(|(other, _)| other.is_hard == spread.is_hard).all(|(s, _)| node.labels.contains_key(&s.key));
        (has_keys || !spread.is_hard)
            && (!spread.honors_affinity || filters::affinity::check(node, &self.demand).is_ok())
            && (!spread.honors_taints || filters::taints::check(node, &self.demand).is_ok())
    }

    fn count(&mut self, node: &NodeInfo, occupant: &Occupant, amount: i64, namespaces: &Namespaces) {
        let own = Arc::clone(&self.demand.occupant);
        for index in 0..self.spread.len() {
            let (spread, _) = &self.spread[index];
            if spread.counts(occupant, &own) && self.is_eligible(spread, node) {
                let (spread, tally) = &mut self.spread[index];
                if let Some(domain) = node.labels.get(&spread.key) {
                    tally.add(domain, amount);
                }
            }
        }
        // A Pod counts for affinity when it is what all of the terms want.
        if self.affinity.iter().all(|(term, _)| term.pods.matches(occupant, namespaces)) {
            for (term, tally) in &mut self.affinity {
                node.labels.get(&term.key).inspect(|domain| tally.add(domain, amount));
            }
        }
        let wanted = self.anti_affinity.iter_mut().map(|(term, tally)| (&*term, tally));
        for (term, tally) in wanted.chain(self.preferred.iter_mut().map(|(_, term, tally)| (&*term, tally))) {
            if term.pods.matches(occupant, namespaces) {
                node.labels.get(&term.key).inspect(|domain| tally.add(domain, amount));
            }
        }
        let about = |term: &&Term| term.pods.matches(&own, namespaces);
        for term in occupant.anti_affinity.iter().filter(about) {
            if let Some(domain) = node.labels.get(&term.key) {
                self.seen_by.entry(term.key.clone()).or_default().refuse.add(domain, amount);
            }
        }
        // Whoever requires Pods of this kind near also likes them near.
        let hard_weight = self.demand.profile.hard_affinity_weight;
        let required = occupant.affinity.iter().map(|term| (hard_weight, term));
        for (weight, term) in required.chain(occupant.preferred.iter().map(|(w, t)| (*w, t))).filter(|(_, term)| about(term)) {
            if let Some(domain) = node.labels.get(&term.key) {
                self.seen_by.entry(term.key.clone()).or_default().welcome.add(domain, weight * amount);
            }
        }
    }

    /// Judges a node anew.
    fn stand(&mut self, name: &Arc<str>, node: &NodeInfo) {
        if let Some(Standing::Fits { domains, score }) = self.standings.get(name)
            && let Some(group) = self.groups.get_mut(domains)
        {
            group.remove(&(Reverse(*score), Arc::clone(name)));
            if group.is_empty() {
                self.groups.remove(domains);
            }
        }
        let standing = match filters::check(node, &self.demand, &[]) {
            Ok(()) => {
                let domains: Domains = self.keys.iter().map(|key| node.labels.get(key).cloned()).collect();
                let score = scores::score(node, &self.demand) + self.topology_score(node, |key| key == HOSTNAME);
                self.groups.entry(domains.clone()).or_default().insert((Reverse(score), Arc::clone(name)));
                Standing::Fits { domains, score }
            }
            Err(refusal) => Standing::Refused(refusal),
        };
        self.standings.insert(Arc::clone(name), standing);
    }

    fn wide_score(&self, node: &NodeInfo) -> i64 {
        self.topology_score(node, |key| key != HOSTNAME)
    }

    /// PodTopologySpread and InterPodAffinity as scores.
    fn topology_score(&self, node: &NodeInfo, is_meant: impl Fn(&str) -> bool) -> i64 {
        let soft = self.spread.iter().filter(|(spread, _)| !spread.is_hard && is_meant(&spread.key));
        let crowd: i64 = soft.map(|(spread, tally)| node.labels.get(&spread.key).map_or(0, |domain| tally.count(domain))).sum();
        let wanted = self.preferred.iter().filter(|(_, term, _)| is_meant(&term.key));
        let wanted = wanted.map(|(weight, term, tally)| weight * node.labels.get(&term.key).map_or(0, |domain| tally.count(domain)));
        let welcome = self.seen_by.iter().filter(|(key, _)| is_meant(key));
        let welcome = welcome.map(|(key, regard)| node.labels.get(key).map_or(0, |domain| regard.welcome.count(domain)));
        scores::of_topology(&self.demand.profile.weights, crowd, wanted.chain(welcome).sum())
    }

    /// PodTopologySpread and InterPodAffinity as filters, as if the Pods in `gone` had left the node.
    fn allows(&self, node: &NodeInfo, gone: &[&Occupant], namespaces: &Namespaces) -> Result<(), Refusal> {
        let own = &*self.demand.occupant;
        let profile = &self.demand.profile;
        let hard = self.spread.iter().filter(|(spread, _)| spread.is_hard && profile.filters_by("PodTopologySpread"));
        for (spread, tally) in hard {
            let Some(domain) = node.labels.get(&spread.key) else {
                return Err(Refusal::lasting("node(s) didn't match pod topology spread constraints (missing required label)"));
            };
            let left = i64::try_from(gone.iter().filter(|pod| spread.counts(pod, own)).count()).unwrap_or(0);
            let count = tally.count(domain) - left;
            // A domain without an eligible node is none to compare with.
            let least = tally.least(spread.domains_min).min(if tally.has(domain) { count } else { i64::MAX });
            if count + i64::from(spread.counts(own, own)) - least > spread.skew_max {
                return Err(Refusal::of_domain("node(s) didn't match pod topology spread constraints", &spread.key));
            }
        }
        if !profile.filters_by("InterPodAffinity") {
            return Ok(());
        }
        let is_first = self.affinity.iter().all(|(term, tally)| tally.total() == 0 && term.pods.matches(own, namespaces));
        for (term, tally) in &self.affinity {
            let domain = node.labels.get(&term.key);
            if domain.is_none_or(|domain| tally.count(domain) == 0 && !is_first) {
                return Err(Refusal { key: Some(term.key.clone()), ..Refusal::lasting("node(s) didn't match pod affinity rules") });
            }
        }
        for (term, tally) in &self.anti_affinity {
            let Some(domain) = node.labels.get(&term.key) else { continue };
            let left = gone.iter().filter(|pod| term.pods.matches(pod, namespaces)).count();
            if tally.count(domain) > i64::try_from(left).unwrap_or(0) {
                return Err(Refusal::of_domain("node(s) didn't match pod anti-affinity rules", &term.key));
            }
        }
        for (key, regard) in &self.seen_by {
            let Some(domain) = node.labels.get(key) else { continue };
            let refuses = |pod: &&Occupant| pod.anti_affinity.iter().filter(|t| t.key == *key && t.pods.matches(own, namespaces)).count();
            let left: usize = gone.iter().map(refuses).sum();
            if regard.refuse.count(domain) > i64::try_from(left).unwrap_or(0) {
                return Err(Refusal::of_domain("node(s) didn't satisfy existing pods anti-affinity rules", key));
            }
        }
        Ok(())
    }
}
