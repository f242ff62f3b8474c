//! What must hold, one property per file: its source, what it watches, how it is checked.
//!
//! An invariant sees [`Observation`]s in the order in which they happened and says when one cannot be. It knows neither
//! simulation nor real processes; both feed it.
//!
//! ```text
//!   a run ──Observation──▶ Checker ──▶ each invariant ──▶ Violation
//!                             └──▶ Chronicle: every change, by revision
//! ```

mod append_at_end;
mod chronicle;
mod convergence;
mod durability;
mod election_safety;
mod leader_completeness;
mod linearizability;
mod log_matching;
mod membership;
mod one_of_a_name;
mod placement;
mod revision_order;
mod state_machine_safety;
mod watch_guarantees;

use std::time::Duration;

pub use chronicle::{Change, Chronicle};

pub type Node = u64;

/// An entry of a node's log: where it stands and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub digest: u64,
}

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Put {
        digest: u64,
    },
    /// Only where the key is absent.
    Create {
        digest: u64,
    },
    /// Only where the key is at this revision.
    Update {
        digest: u64,
        expected: u64,
    },
    Delete {
        expected: u64,
    },
    Read,
}

/// What the client heard. No answer, or a time-out, is `Unknown`: it may have happened, and may still.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Done {
        revision: u64,
    },
    /// A precondition did not hold; the key was at `found`, 0 where it was absent.
    Refused {
        found: u64,
    },
    /// A read of the state at `revision`: the key's own revision and content, where it was there.
    Seen {
        revision: u64,
        found: Option<(u64, u64)>,
    },
    Unknown,
}

/// A Pod's part of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    pub node: String,
    pub milli_cpu: u64,
    /// What the node has for all its Pods.
    pub of_milli_cpu: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// A node has started, with what its disk had kept.
    Started {
        node: Node,
        revision: u64,
    },
    /// A node leads, with this log.
    Leads {
        node: Node,
        term: u64,
        log: Vec<Entry>,
    },
    /// The log on a node's disk.
    Log {
        node: Node,
        log: Vec<Entry>,
    },
    /// An entry is written to a node's log, whose last is this one.
    Written {
        node: Node,
        index: u64,
        last: Option<u64>,
    },
    /// A node's state is that of a log index now.
    Applied {
        node: Node,
        index: u64,
        term: u64,
        revision: u64,
    },
    /// A node's history has this change.
    Changed {
        node: Node,
        change: Change,
    },
    /// A node knows these voters.
    Voters {
        node: Node,
        voters: Vec<Node>,
    },
    Asked {
        operation: u64,
        key: String,
        request: Request,
    },
    Answered {
        operation: u64,
        answer: Answer,
    },
    /// A watcher has listed and goes on from there.
    Listed {
        watcher: u64,
        resource: &'static str,
        revision: u64,
    },
    /// A watcher has got this change.
    Watched {
        watcher: u64,
        change: Change,
    },
    /// A container of a Pod runs from now on. Unique is a Pod that has its name from a StatefulSet.
    Runs {
        node: Node,
        pod: String,
        uid: String,
        is_unique: bool,
    },
    /// Nothing of a Pod runs on a node any more.
    Ended {
        node: Node,
        uid: String,
    },
    /// What a Pod has of a node at a revision; told before the change itself. None for one that has no node, or is gone.
    Placed {
        revision: u64,
        uid: String,
        share: Option<Share>,
    },
    /// Faults are off and everything had time to heal: the state of a node.
    Rested {
        node: Node,
        revision: u64,
        digest: u64,
    },
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{invariant} ({source}) at {at:?}: {why}", source = .from)]
pub struct Violation {
    pub invariant: &'static str,
    pub from: &'static str,
    pub at: Duration,
    pub why: String,
}

/// One property. `why` it does not hold is all that an implementation says.
trait Invariant: Send {
    fn name(&self) -> &'static str;
    /// Where the property is stated.
    fn source(&self) -> &'static str;
    fn observe(&mut self, chronicle: &Chronicle, observation: &Observation) -> Result<(), String>;
    /// What can only be said when everything has been seen.
    fn finish(&mut self, _chronicle: &Chronicle) -> Result<(), String> {
        Ok(())
    }
}

/// All invariants over one run.
pub struct Checker {
    chronicle: Chronicle,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            chronicle: Chronicle::default(),
            invariants: vec![
                Box::<election_safety::ElectionSafety>::default(),
                Box::<log_matching::LogMatching>::default(),
                Box::<append_at_end::AppendAtEnd>::default(),
                Box::<leader_completeness::LeaderCompleteness>::default(),
                Box::<state_machine_safety::StateMachineSafety>::default(),
                Box::<revision_order::RevisionOrder>::default(),
                Box::<membership::Membership>::default(),
                Box::<linearizability::Linearizability>::default(),
                Box::<durability::Durability>::default(),
                Box::<watch_guarantees::WatchGuarantees>::default(),
                Box::<placement::Placement>::default(),
                Box::<one_of_a_name::OneOfAName>::default(),
                Box::<convergence::Convergence>::default(),
            ],
        }
    }
}

// === impl Checker ===

impl Checker {
    /// For those who see a cluster from outside: some of its keys, and nothing of its logs.
    pub fn of_clients() -> Self {
        Self {
            chronicle: Chronicle::default(),
            invariants: vec![
                Box::<state_machine_safety::StateMachineSafety>::default(),
                Box::<linearizability::Linearizability>::default(),
            ],
        }
    }

    pub fn observe(&mut self, at: Duration, observation: &Observation) -> Result<(), Violation> {
        self.chronicle.observe(observation);
        let Self { chronicle, invariants } = self;
        let broken = |i: &dyn Invariant, why| Violation { invariant: i.name(), from: i.source(), at, why };
        invariants.iter_mut().try_for_each(|i| i.observe(chronicle, observation).map_err(|why| broken(&**i, why)))
    }

    pub fn finish(&mut self, at: Duration) -> Result<(), Violation> {
        let Self { chronicle, invariants } = self;
        let broken = |i: &dyn Invariant, why| Violation { invariant: i.name(), from: i.source(), at, why };
        invariants.iter_mut().try_for_each(|i| i.finish(chronicle).map_err(|why| broken(&**i, why)))
    }
}
