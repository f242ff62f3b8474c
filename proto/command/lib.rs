//! What may be proposed to Raft, and what comes back.
//!
//! A [`Command`] is a list of small transactions that one log entry carries. Each [`Transaction`] states what it read
//! (preconditions) and what it writes; it happens as a whole or not at all, independent of its neighbours. All that is
//! random or timed already stands inside, so that every node applies it alike.
//!
//! The encoding is protobuf, written by hand here because the types are few. **Invariant:** a field number is never
//! reused, and an unknown [`Command::level`] is refused by `apply` rather than skipped.

use skein_object::amounts::Amounts;
use skein_object::quota;
use skein_object::record::{Record, Segment};

/// The newest level of commands that this build understands.
pub const LEVEL: u32 = 1;

/// One log entry holds at most this much; a proposal above it is refused before it reaches Raft.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// The feature level that a node needs to apply this.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    #[prost(message, optional, tag = "2")]
    pub id: Option<ProposalId>,
    #[prost(message, repeated, tag = "3")]
    pub transactions: Vec<Transaction>,
}

/// The name of a proposal: who made it and its number there. A retry carries the same name and gets the same reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct ProposalId {
    /// Random for each start of a daemon.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Transaction {
    /// The Raft term that the proposer led in; 0 where it does not matter. A later term refuses the transaction.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pub writes: Vec<Write>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Write {
    /// [`skein_object::Key`] in its text form.
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(oneof = "Expect", tags = "2, 3, 4")]
    pub expect: Option<Expect>,
    /// Refuse while the object's namespace is missing or terminating.
    #[prost(bool, tag = "5")]
    pub in_active_namespace: bool,
    #[prost(oneof = "Action", tags = "6, 7, 8, 9, 10")]
    pub action: Option<Action>,
}

/// What must hold of the key before the write.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum Expect {
    #[prost(bool, tag = "2")]
    Absent(bool),
    /// The object is there and this is its revision.
    #[prost(uint64, tag = "3")]
    Revision(u64),
    #[prost(bool, tag = "4")]
    Present(bool),
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Action {
    #[prost(message, tag = "6")]
    Put(Record),
    #[prost(message, tag = "7")]
    Change(Changes),
    #[prost(bool, tag = "8")]
    Delete(bool),
    /// Nothing is written: the write is there for its precondition.
    #[prost(bool, tag = "9")]
    Check(bool),
    /// Added to the usage of a ResourceQuota, within its bounds.
    #[prost(message, tag = "10")]
    Charge(Charge),
}

/// What a transaction takes of a quota; amounts below zero are given back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Charge {
    #[prost(message, repeated, tag = "1")]
    pub amounts: Vec<Amount>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Amount {
    #[prost(string, tag = "1")]
    pub name: String,
    /// A quantity, as Kubernetes writes it.
    #[prost(string, tag = "2")]
    pub quantity: String,
}

/// The segments that differ; one with empty JSON removes its field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Changes {
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<Segment>,
}

/// One outcome for each transaction, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(message, repeated, tag = "1")]
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Outcome {
    #[prost(oneof = "Verdict", tags = "1, 2")]
    pub verdict: Option<Verdict>,
}

#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum Verdict {
    /// The revision of the transaction's last changed object.
    #[prost(uint64, tag = "1")]
    Done(u64),
    #[prost(message, tag = "2")]
    Refused(Refusal),
}

/// Why a transaction did not happen.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Refusal {
    /// Which of its writes did not hold.
    #[prost(uint32, tag = "1")]
    pub write: u32,
    #[prost(enumeration = "Cause", tag = "2")]
    pub cause: i32,
    /// The revision that was found, for a conflict.
    #[prost(uint64, tag = "3")]
    pub found: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Cause {
    Malformed = 0,
    AlreadyExists = 1,
    NotFound = 2,
    Conflict = 3,
    NamespaceNotFound = 4,
    NamespaceTerminating = 5,
    /// The proposer no longer leads.
    Fenced = 6,
    /// The command is newer than this node.
    UnknownLevel = 7,
    /// A quota has not enough left.
    QuotaExceeded = 8,
}

// === impl Write ===

impl Write {
    pub fn create(key: &skein_object::Key, record: Record) -> Self {
        let in_active_namespace = !key.namespace().is_empty();
        Self { key: key.to_string(), expect: Some(Expect::Absent(true)), in_active_namespace, action: Some(Action::Put(record)) }
    }

    /// Turns `old`, read at `revision`, into `new`.
    pub fn update(key: &skein_object::Key, revision: u64, old: &Record, new: &Record) -> Self {
        let segments = new.changes_from(old);
        Self { expect: Some(Expect::Revision(revision)), ..Self::act(key, Action::Change(Changes { segments })) }
    }

    /// Writes nothing: the others of its transaction happen only if this object is still as it was read.
    pub fn unchanged(key: &skein_object::Key, revision: u64) -> Self {
        Self { expect: Some(Expect::Revision(revision)), ..Self::act(key, Action::Check(true)) }
    }

    pub fn delete(key: &skein_object::Key, revision: u64) -> Self {
        Self { expect: Some(Expect::Revision(revision)), ..Self::act(key, Action::Delete(true)) }
    }

    /// Takes of a quota in a namespace.
    pub fn charge(namespace: &str, charge: &quota::Charge) -> Self {
        let amount = |(name, amount): (&String, &skein_object::quantity::Quantity)| Amount {
            name: name.clone(),
            quantity: format!("{}m", amount.milli()),
        };
        let amounts = charge.amounts.iter().map(amount).collect();
        Self::act(&skein_object::Key::new(quota::QUOTAS, namespace, &charge.quota), Action::Charge(Charge { amounts }))
    }

    fn act(key: &skein_object::Key, action: Action) -> Self {
        Self { key: key.to_string(), expect: None, in_active_namespace: false, action: Some(action) }
    }
}

// === impl Charge ===

impl Charge {
    /// The amounts as numbers; what is no quantity is left out.
    pub fn amounts(&self) -> Amounts {
        self.amounts.iter().filter_map(|a| Some((a.name.clone(), a.quantity.parse().ok()?))).collect()
    }
}

impl From<Write> for Transaction {
    fn from(write: Write) -> Self {
        Self { epoch: 0, writes: vec![write] }
    }
}

// === impl Outcome ===

impl Outcome {
    pub fn done(revision: u64) -> Self {
        Self { verdict: Some(Verdict::Done(revision)) }
    }

    pub fn refused(write: usize, cause: Cause, found: u64) -> Self {
        let write = u32::try_from(write).unwrap_or(u32::MAX);
        Self { verdict: Some(Verdict::Refused(Refusal { write, cause: cause.into(), found })) }
    }

    pub fn result(self) -> Result<u64, Refusal> {
        match self.verdict {
            Some(Verdict::Done(revision)) => Ok(revision),
            Some(Verdict::Refused(refusal)) => Err(refusal),
            None => Err(Refusal { write: 0, cause: Cause::Malformed.into(), found: 0 }),
        }
    }
}
