//! openraft's types as Skein fills them in.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use skein_command::{Command, Reply};

use crate::Runtime;

/// A node's number. Never reused: a wiped disk joins as a new node.
pub type NodeId = u64;

openraft::declare_raft_types!(
    /// Standard Raft: one leader in a term, so a term is also the epoch that fences a leader.
    pub Types:
        D = Proposal,
        R = Answer,
        NodeId = NodeId,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = Runtime,
);

/// What the membership knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The Kubernetes Node's name.
    pub name: String,
    /// `IP:PORT` of its QUIC endpoint.
    pub address: String,
    /// Of a witness, which votes and keeps no state: `REGION/ZONE`. Of others the state knows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// An encoded [`Command`]: encoded once by the proposer, decoded once by `apply`, copied in between.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

/// An encoded [`Reply`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Bytes);

impl From<&Command> for Proposal {
    fn from(command: &Command) -> Self {
        Self(command.encode_to_vec().into())
    }
}

impl From<&Reply> for Answer {
    fn from(reply: &Reply) -> Self {
        Self(reply.encode_to_vec().into())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
