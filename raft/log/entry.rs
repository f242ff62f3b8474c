//! A log entry in bytes, the same on disk and between nodes. Format 1.

use bytes::Bytes;
use openraft::type_config::alias::{EntryOf, LogIdOf};
use openraft::{EntryPayload, LogId, Membership};
use prost::Message;

use crate::{Member, NodeId, Proposal, Types};

const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(oneof = "Payload", tags = "4, 5, 6")]
    payload: Option<Payload>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Payload {
    #[prost(bool, tag = "4")]
    Blank(bool),
    #[prost(bytes = "bytes", tag = "5")]
    Normal(Bytes),
    /// openraft's membership as JSON: rare and small.
    #[prost(bytes = "bytes", tag = "6")]
    Membership(Bytes),
}

#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("{0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("{0}")]
    Membership(#[from] serde_json::Error),
    #[error("unknown entry format {0}")]
    Format(u32),
}

pub fn log_id(term: u64, index: u64) -> LogIdOf<Types> {
    use openraft::vote::RaftLeaderId;
    let leader = openraft::impls::leader_id_std::LeaderId::<u64, NodeId>::new(term, 0);
    LogId::new(leader.to_committed(), index)
}

pub fn encode_entry(entry: &EntryOf<Types>) -> Vec<u8> {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(proposal) => Payload::Normal(proposal.0.clone()),
        EntryPayload::Membership(membership) => {
            Payload::Membership(serde_json::to_vec(membership).expect("a membership is plain data").into())
        }
    };
    let (term, index) = (*entry.log_id.leader_id, entry.log_id.index);
    Stored { format: FORMAT, term, index, payload: Some(payload) }.encode_to_vec()
}

pub fn decode_entry(bytes: Bytes) -> Result<EntryOf<Types>, Malformed> {
    let stored = Stored::decode(bytes)?;
    if stored.format != FORMAT {
        return Err(Malformed::Format(stored.format));
    }
    let payload = match stored.payload {
        Some(Payload::Normal(bytes)) => EntryPayload::Normal(Proposal(bytes)),
        Some(Payload::Membership(json)) => EntryPayload::Membership(serde_json::from_slice::<Membership<NodeId, Member>>(&json)?),
        Some(Payload::Blank(_)) | None => EntryPayload::Blank,
    };
    Ok(openraft::Entry { log_id: log_id(stored.term, stored.index), payload })
}
