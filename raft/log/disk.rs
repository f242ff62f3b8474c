//! The replicated state on disk: objects, remembered replies, and the index that they are the state of.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::type_config::alias::{LogIdOf, StoredMembershipOf};
use prost::Message;
use serde::{Deserialize, Serialize};
use skein_command::{ProposalId, Reply};
use skein_object::{Key, Record};
use skein_state::{Entry, Event, REPLY_WINDOW, State};

use crate::entry::log_id;
use crate::medium::{Batch, Medium, synced};
use crate::{Error, Types};

const FORMAT: u32 = 1;
const HEAD: &[u8] = b"head";

/// The state's database, opened.
pub struct Disk {
    medium: Arc<dyn Medium>,
}

/// What was on disk at start.
pub struct Loaded {
    pub state: State,
    pub applied: Option<LogIdOf<Types>>,
    pub membership: StoredMembershipOf<Types>,
}

/// The record that makes a batch of objects the state of one index.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    applied: Option<(u64, u64)>,
    membership: StoredMembershipOf<Types>,
    revision: u64,
    /// Of the state (`State::digest`); older versions wrote none.
    #[serde(default)]
    digest: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Remembered {
    #[prost(message, optional, tag = "1")]
    id: Option<ProposalId>,
    #[prost(message, optional, tag = "2")]
    reply: Option<Reply>,
}

// === impl Disk ===

impl Disk {
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium }
    }

    pub fn load(&self) -> Result<Loaded, Error> {
        let mut state = State::default();
        let Some(head) = self.medium.get(HEAD)? else {
            return Ok(Loaded { state, applied: None, membership: StoredMembershipOf::<Types>::default() });
        };
        let head: Head = serde_json::from_slice(&head).map_err(|e| damaged(HEAD, &e))?;
        if head.format != FORMAT {
            return Err(Error::Format { found: head.format, known: FORMAT });
        }
        let mut result = Ok(());
        self.medium.scan(b"", &mut |key, value| {
            result = restore(&mut state, key, value);
            result.is_ok()
        })?;
        result?;
        state.restore_revision(head.revision);
        if head.digest.is_some_and(|digest| digest != state.digest()) {
            return Err(damaged(HEAD, &"its objects are not those that were written"));
        }
        Ok(Loaded { state, applied: head.applied.map(|(term, index)| log_id(term, index)), membership: head.membership })
    }

    /// Makes everything written so far durable. Snapshots and purges wait for it.
    pub async fn flush(&self) -> io::Result<()> {
        synced(&*self.medium).await
    }

    pub(crate) fn write(
        &self,
        mut batch: Batch,
        applied: Option<LogIdOf<Types>>,
        membership: &StoredMembershipOf<Types>,
        state: &State,
    ) -> io::Result<()> {
        let applied = applied.map(|id| (*id.leader_id, id.index));
        let head =
            Head { format: FORMAT, applied, membership: membership.clone(), revision: state.revision(), digest: Some(state.digest()) };
        batch.put(HEAD, serde_json::to_vec(&head).expect("the head is plain data"));
        self.medium.write(batch)
    }

    /// Replaces everything by an installed snapshot and makes it durable.
    pub async fn replace(&self, state: &State, applied: Option<LogIdOf<Types>>, membership: &StoredMembershipOf<Types>) -> io::Result<()> {
        self.rewrite(state, applied, membership)?;
        self.flush().await
    }

    /// Replaces everything, durable with the next flush.
    pub(crate) fn rewrite(&self, state: &State, applied: Option<LogIdOf<Types>>, membership: &StoredMembershipOf<Types>) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.delete_range(b"o", b"p");
        batch.delete_range(b"r", b"s");
        for (key, entry) in state.range("", None) {
            batch.put_object(key, entry);
        }
        for (index, id, reply) in state.replies() {
            batch.put_reply(index, id, reply);
        }
        self.write(batch, applied, membership, state)
    }
}

// === impl Batch ===

impl Batch {
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.after {
            Some(entry) => self.put_object(&event.key, entry),
            None => self.delete(object_key(&event.key)),
        }
    }

    pub(crate) fn reply(&mut self, index: u64, id: ProposalId, reply: &Reply) {
        self.put_reply(index, id, reply);
        if let Some(gone) = index.checked_sub(REPLY_WINDOW + 1) {
            self.delete(reply_key(gone));
        }
    }

    fn put_object(&mut self, key: &Key, entry: &Entry) {
        let mut value = Vec::with_capacity(8 + entry.record.size());
        value.extend_from_slice(&entry.revision.to_be_bytes());
        entry.record.encode(&mut value).expect("a vector grows as needed");
        self.put(object_key(key), value);
    }

    fn put_reply(&mut self, index: u64, id: ProposalId, reply: &Reply) {
        let remembered = Remembered { id: Some(id), reply: Some(reply.clone()) };
        self.put(reply_key(index), remembered.encode_to_vec());
    }
}

/// Puts back what one pair of the database holds.
fn restore(state: &mut State, key: &[u8], value: &[u8]) -> Result<(), Error> {
    match key.split_first() {
        Some((b'o', rest)) => {
            let (key, entry) = decode_object(rest, value).ok_or_else(|| damaged(key, &"not an object"))?;
            state.restore(key, entry);
        }
        Some((b'r', index)) => {
            let index = index.try_into().map(u64::from_be_bytes).map_err(|e| damaged(key, &e))?;
            let remembered = Remembered::decode(value).map_err(|e| damaged(key, &e))?;
            if let (Some(id), Some(reply)) = (remembered.id, remembered.reply) {
                state.restore_reply(index, id, reply);
            }
        }
        _ => {}
    }
    Ok(())
}

fn object_key(key: &Key) -> Vec<u8> {
    [b"o", key.as_str().as_bytes()].concat()
}

fn reply_key(index: u64) -> Vec<u8> {
    [b"r".as_slice(), &index.to_be_bytes()].concat()
}

fn decode_object(key: &[u8], value: &[u8]) -> Option<(Key, Entry)> {
    let key = Key::parse(std::str::from_utf8(key).ok()?)?;
    let (revision, record) = value.split_at_checked(8)?;
    let revision = u64::from_be_bytes(revision.try_into().ok()?);
    let record = Record::decode(Bytes::copy_from_slice(record)).ok()?;
    Some((key, Entry { revision, record: Arc::new(record) }))
}

fn damaged(key: &[u8], why: &dyn std::fmt::Display) -> Error {
    Error::Damaged { what: "state", at: String::from_utf8_lossy(key).into_owned(), why: why.to_string() }
}
