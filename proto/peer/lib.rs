//! What nodes say to each other. Every stream between two nodes starts with one byte, its [`Channel`]; what follows are
//! length-delimited frames of the messages here, or HTTP where the channel says so.
//!
//! openraft's own small structures (votes, log ids in rare messages) travel as JSON inside `bytes` fields, entries as
//! the bytes of the log.

use bytes::Bytes;
use skein_object::usage::NodeUsage;

/// The application protocol of the QUIC handshake; its number is the version of everything below it.
pub const ALPN: &[u8] = b"skein/1";

/// One frame holds at most this much.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// What a stream between two nodes is for. Each has streams of its own, so that none waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// One long-lived stream: AppendEntries one way, its answers the other.
    Append = 1,
    /// One request, one answer.
    Call = 2,
    /// A header, then the chunks of a state, then the answer.
    Snapshot = 3,
    /// HTTP/1.1 to the kubelet of the node: logs, exec, attach, port-forward.
    Kubelet = 4,
    /// One [`NodeReport`] after the other, answered by nothing.
    Report = 5,
    /// A header, then the chunks of the state of the node that is asked.
    State = 6,
    /// An [`Offer`], the [`LogPosition`] to begin after, then [`Relayed`] after [`Relayed`], each answered by an empty frame.
    Follow = 7,
}

impl Channel {
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Append, Self::Call, Self::Snapshot, Self::Kubelet, Self::Report, Self::State, Self::Follow];
        all.into_iter().find(|channel| *channel as u8 == byte)
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LogPosition {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

/// Raft's AppendEntries (Raft paper, section 5.3).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Append {
    #[prost(bytes = "bytes", tag = "1")]
    pub vote: Bytes,
    #[prost(message, optional, tag = "2")]
    pub previous: Option<LogPosition>,
    /// Entries as the log stores them.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub entries: Vec<Bytes>,
    #[prost(message, optional, tag = "4")]
    pub commit: Option<LogPosition>,
    /// How many times slower than the world the leader's clock goes.
    #[prost(uint32, tag = "5")]
    pub pace: u32,
}

/// What a node says to one that looks for somebody to follow.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Offer {
    #[prost(message, optional, tag = "1")]
    pub source: Option<Source>,
    /// Whether it leads: whoever has another to follow leaves it alone.
    #[prost(bool, tag = "2")]
    pub leads: bool,
    /// Whether it has as many followers as it takes.
    #[prost(bool, tag = "3")]
    pub is_full: bool,
}

/// Where a node has its entries from.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Source {
    /// Through which nodes they come, the node itself last; the first of them hears the leader.
    #[prost(uint64, repeated, tag = "1")]
    pub way: Vec<u64>,
    /// How long ago the leader was heard of at the beginning of that way.
    #[prost(uint64, tag = "2")]
    pub silence_ms: u64,
}

/// What a node tells those that follow it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Relayed {
    #[prost(message, optional, tag = "1")]
    pub source: Option<Source>,
    /// Committed entries, under the leader's vote; absent while there is no leader.
    #[prost(message, optional, tag = "2")]
    pub append: Option<Append>,
    /// The header of a snapshot: the chunks of the state come as frames of their own, and an empty one.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub snapshot: Option<Bytes>,
}

/// A request on [`Channel::Call`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(oneof = "Request", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 19, 20")]
    pub request: Option<Request>,
    /// With votes: how many times slower than the world the candidate's clock goes.
    #[prost(uint32, tag = "11")]
    pub pace: u32,
    /// With proposals: who took them.
    #[prost(uint64, tag = "12")]
    pub node: u64,
    /// With proposals: how many writes of clients they hold.
    #[prost(uint64, tag = "13")]
    pub writes: u64,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Request {
    #[prost(bytes = "bytes", tag = "1")]
    Vote(Bytes),
    #[prost(bytes = "bytes", tag = "2")]
    PreVote(Bytes),
    #[prost(bytes = "bytes", tag = "3")]
    TransferLeader(Bytes),
    /// An encoded command for the leader to propose.
    #[prost(bytes = "bytes", tag = "4")]
    Propose(Bytes),
    /// Asks the leader for the index that a consistent read must wait for.
    #[prost(bool, tag = "5")]
    ReadIndex(bool),
    #[prost(message, tag = "6")]
    AddMember(AddMember),
    /// The cluster's keys for a node that is to become a voter: JSON.
    #[prost(bytes = "bytes", tag = "7")]
    InstallKeys(Bytes),
    /// A join request that another node took: JSON.
    #[prost(bytes = "bytes", tag = "8")]
    Join(Bytes),
    /// A request for a new certificate that another node took: JSON.
    #[prost(bytes = "bytes", tag = "9")]
    Renew(Bytes),
    /// Asks a node that votes for the keys of what is sealed, 32 bytes each; that which seals comes first.
    #[prost(bool, tag = "10")]
    SealingKey(bool),
    /// Asks for the digest of the state after this log entry.
    #[prost(uint64, tag = "14")]
    Digest(u64),
    /// Asks a node that votes to sign a ServiceAccount's token: what it says, in JSON.
    #[prost(bytes = "bytes", tag = "15")]
    SignToken(Bytes),
    /// Asks the leader to tell of the cluster's CA, to give it a successor, or to retire the former one: JSON.
    #[prost(bytes = "bytes", tag = "16")]
    Authority(Bytes),
    /// Asks the leader for the last log entry that every voter has which keeps a state.
    #[prost(bool, tag = "17")]
    Replicated(bool),
    /// Asks for the cluster's CAs as the state holds them: JSON.
    #[prost(bool, tag = "18")]
    Authorities(bool),
    /// Another request than for a node that keeps the state: a leader of a version that knows no witness must not take it for
    /// one.
    #[prost(message, tag = "19")]
    AddWitness(AddMember),
    /// The leader is about to leave this node to others; answered once it follows one of them.
    #[prost(bool, tag = "20")]
    Follow(bool),
}

/// A node that is to follow the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddMember {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub address: String,
    /// Of one that is to vote and to keep no state: `REGION/ZONE`.
    #[prost(string, optional, tag = "4")]
    pub witness: Option<String>,
}

/// The answer to a [`Call`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(oneof = "Response", tags = "1, 2, 3, 4, 5, 6")]
    pub response: Option<Response>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Response {
    /// openraft's response, as JSON.
    #[prost(bytes = "bytes", tag = "1")]
    Raft(Bytes),
    #[prost(message, tag = "2")]
    Proposed(Proposed),
    /// An index in the log.
    #[prost(uint64, tag = "3")]
    ReadIndex(u64),
    /// The node that was asked does not lead; the caller asks again.
    #[prost(bool, tag = "4")]
    NotLeader(bool),
    #[prost(string, tag = "5")]
    Failed(String),
    #[prost(fixed64, tag = "6")]
    Digest(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Proposed {
    /// Where the command stands in the log: the caller waits until it has applied that.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub reply: Bytes,
}

/// A node tells the leader that it lives, and how much of the log it has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeReport {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(uint64, tag = "2")]
    pub applied: u64,
    /// What the node and its Pods use, where that has been measured anew.
    #[prost(message, optional, tag = "3")]
    pub usage: Option<NodeUsage>,
    /// When it was sent, by a clock of the node's own; 0 where no [`Grant`] is wanted.
    #[prost(uint64, tag = "4")]
    pub sent_ns: u64,
    /// The node that it has the log from, where that is not the leader.
    #[prost(string, tag = "5")]
    pub follows: String,
}

/// The leader's answer to a report, on the same stream: the node's lease goes on.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Grant {
    /// That of the report.
    #[prost(uint64, tag = "1")]
    pub sent_ns: u64,
    /// It goes on once the node has applied this entry: then it knows which of its Pods are others' by now.
    #[prost(uint64, tag = "2")]
    pub applied: u64,
    /// So long before the report came a majority had last answered the leader.
    #[prost(uint64, tag = "3")]
    pub age_ns: u64,
}
