//! A state as a stream of chunks: what a Raft snapshot carries.
//!
//! Format 1: each chunk is a protobuf [`Chunk`]; the first has the header, the last is marked, so that a truncated
//! stream is told from a whole one, and has the state's digest, so that a damaged one is told from a good one.

use std::sync::Arc;

use prost::Message;
use skein_command::{ProposalId, Reply};
use skein_object::{Key, Record};

use crate::{Entry, State};

const FORMAT: u32 = 1;

/// Chunks aim at this size, so that a transfer never holds much more than one in memory.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
struct Chunk {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    objects: Vec<Object>,
    #[prost(message, repeated, tag = "4")]
    replies: Vec<Remembered>,
    #[prost(bool, tag = "5")]
    last: bool,
    /// With the last chunk; older versions wrote none.
    #[prost(fixed64, optional, tag = "6")]
    digest: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, optional, tag = "3")]
    record: Option<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Remembered {
    #[prost(message, optional, tag = "1")]
    id: Option<ProposalId>,
    #[prost(message, optional, tag = "2")]
    reply: Option<Reply>,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("snapshot chunk cannot be decoded: {0}")]
    Chunk(#[from] prost::DecodeError),
    #[error("snapshot format {0} is not known to this version")]
    Format(u32),
    #[error("snapshot ends before its last chunk")]
    Truncated,
    #[error("snapshot is damaged: its objects are not those that were written")]
    Damaged,
    #[error("snapshot holds the malformed key {0:?}")]
    Key(String),
}

/// Encodes a state, one chunk at a time.
pub struct Chunks {
    state: State,
    after: Option<Key>,
    finished: bool,
}

impl State {
    pub fn chunks(&self) -> Chunks {
        Chunks { state: self.clone(), after: None, finished: false }
    }
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.finished {
            return None;
        }
        let mut chunk = Chunk { format: FORMAT, revision: self.state.revision, ..Chunk::default() };
        if self.after.is_none() {
            chunk.replies = self
                .state
                .replies
                .iter()
                .map(|(index, id, reply)| Remembered { id: Some(id), reply: Some(reply.clone()), index })
                .collect();
        }
        let mut bytes = 0;
        let mut last = None;
        for (key, entry) in self.state.range("", self.after.as_ref().map(Key::as_str)) {
            bytes += entry.record.size() + key.as_str().len();
            last = Some(key.clone());
            chunk.objects.push(Object { key: key.to_string(), revision: entry.revision, record: Some((*entry.record).clone()) });
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        self.finished = bytes < CHUNK_BYTES;
        chunk.last = self.finished;
        chunk.digest = self.finished.then_some(self.state.digest);
        self.after = last.or_else(|| self.after.take());
        Some(chunk.encode_to_vec())
    }
}

/// Builds a state from chunks.
#[derive(Default)]
pub struct Restore {
    state: State,
    complete: bool,
    digest: Option<u64>,
}

impl Restore {
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let chunk = Chunk::decode(bytes)?;
        if chunk.format != FORMAT {
            return Err(Malformed::Format(chunk.format));
        }
        self.state.restore_revision(chunk.revision);
        for object in chunk.objects {
            let key = Key::parse(&object.key).ok_or(Malformed::Key(object.key))?;
            let record = Arc::new(object.record.unwrap_or_default());
            self.state.restore(key, Entry { revision: object.revision, record });
        }
        for remembered in chunk.replies {
            if let (Some(id), Some(reply)) = (remembered.id, remembered.reply) {
                self.state.replies.remember(remembered.index, id, reply);
            }
        }
        self.complete |= chunk.last;
        self.digest = chunk.digest.or(self.digest);
        Ok(())
    }

    pub fn finish(self) -> Result<State, Malformed> {
        if !self.complete {
            return Err(Malformed::Truncated);
        }
        if self.digest.is_some_and(|digest| digest != self.state.digest) {
            return Err(Malformed::Damaged);
        }
        Ok(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_state_survives_its_snapshot() {
        let mut state = State::default();
        for index in 0..3000 {
            let record = Record::from_value(&json!({"metadata": {"name": "x"}, "data": {"v": "y".repeat(1000)}}));
            state.restore(Key::new("configmaps", "n", &format!("c{index}")), Entry { revision: index + 1, record: Arc::new(record) });
        }
        state.restore_revision(9999);
        state.replies.remember(1, ProposalId { incarnation: 1, sequence: 2 }, Reply::default());
        let chunks: Vec<_> = state.chunks().collect();
        assert!(chunks.len() > 2);
        let mut restore = Restore::default();
        for chunk in &chunks {
            restore.push(chunk).expect("the chunk was just encoded");
        }
        let copy = restore.finish().expect("the last chunk was given");
        assert_eq!((copy.revision(), copy.len()), (9999, 3000));
        assert!(copy.objects.iter().eq(state.objects.iter()));
        assert!(copy.replies.find(ProposalId { incarnation: 1, sequence: 2 }).is_some());
        let mut truncated = Restore::default();
        truncated.push(&chunks[0]).expect("the chunk was just encoded");
        assert!(matches!(truncated.finish(), Err(Malformed::Truncated)));
    }
}
