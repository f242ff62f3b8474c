//! The replicated state on disk: objects, remembered replies, and the index that they are the state of.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::type_config::alias::{LogIdOf, StoredMembershipOf};
use prost::Message;
use rocksdb::{DB, IteratorMode, Options, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};
use skein_command::{ProposalId, Reply};
use skein_object::{Key, Record};
use skein_state::{Entry, Event, REPLY_WINDOW, State};

use crate::entry::log_id;
use crate::{Error, Types};

const FORMAT: u32 = 1;
const HEAD: &[u8] = b"head";

/// The directory of the state database, opened.
pub struct Disk {
    db: DB,
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
}

#[derive(Clone, PartialEq, Message)]
struct Remembered {
    #[prost(message, optional, tag = "1")]
    id: Option<ProposalId>,
    #[prost(message, optional, tag = "2")]
    reply: Option<Reply>,
}

/// One batch of changes on its way to disk.
#[derive(Default)]
pub(crate) struct Batch(WriteBatch);

// === impl Disk ===

impl Disk {
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("state");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(64 << 20);
        let db = DB::open(&options, &path).map_err(|source| Error::Open { what: "state", path, source })?;
        Ok(Self { db })
    }

    pub fn load(&self) -> Result<Loaded, Error> {
        let mut state = State::default();
        let Some(head) = self.db.get(HEAD).map_err(io)? else {
            return Ok(Loaded { state, applied: None, membership: StoredMembershipOf::<Types>::default() });
        };
        let head: Head = serde_json::from_slice(&head).map_err(|e| damaged(HEAD, &e))?;
        if head.format != FORMAT {
            return Err(Error::Format { found: head.format, known: FORMAT });
        }
        for item in self.db.iterator(IteratorMode::Start) {
            let (key, value) = item.map_err(io)?;
            match key.split_first() {
                Some((b'o', rest)) => {
                    let (key, entry) = decode_object(rest, &value).ok_or_else(|| damaged(&key, &"not an object"))?;
                    state.restore(key, entry);
                }
                Some((b'r', index)) => {
                    let index = index.try_into().map(u64::from_be_bytes).map_err(|e| damaged(&key, &e))?;
                    let remembered = Remembered::decode(&*value).map_err(|e| damaged(&key, &e))?;
                    if let (Some(id), Some(reply)) = (remembered.id, remembered.reply) {
                        state.restore_reply(index, id, reply);
                    }
                }
                _ => {}
            }
        }
        state.restore_revision(head.revision);
        Ok(Loaded { state, applied: head.applied.map(|(term, index)| log_id(term, index)), membership: head.membership })
    }

    /// Makes everything written so far durable. Snapshots and purges wait for it.
    pub fn flush(&self) -> Result<(), Error> {
        self.db.flush().map_err(io)
    }

    pub(crate) fn write(
        &self,
        mut batch: Batch,
        applied: Option<LogIdOf<Types>>,
        membership: &StoredMembershipOf<Types>,
        revision: u64,
    ) -> Result<(), Error> {
        let applied = applied.map(|id| (*id.leader_id, id.index));
        let head = Head { format: FORMAT, applied, membership: membership.clone(), revision };
        batch.0.put(HEAD, serde_json::to_vec(&head).expect("the head is plain data"));
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch.0, &options).map_err(io)
    }

    /// Replaces everything by an installed snapshot and makes it durable.
    pub(crate) fn replace(
        &self,
        state: &State,
        applied: Option<LogIdOf<Types>>,
        membership: &StoredMembershipOf<Types>,
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.0.delete_range(b"o".as_slice(), b"p".as_slice());
        batch.0.delete_range(b"r".as_slice(), b"s".as_slice());
        for (key, entry) in state.range("", None) {
            batch.put_object(key, entry);
        }
        for (index, id, reply) in state.replies() {
            batch.put_reply(index, id, reply);
        }
        self.write(batch, applied, membership, state.revision())?;
        self.flush()
    }
}

// === impl Batch ===

impl Batch {
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.after {
            Some(entry) => self.put_object(&event.key, entry),
            None => self.0.delete(object_key(&event.key)),
        }
    }

    pub(crate) fn reply(&mut self, index: u64, id: ProposalId, reply: &Reply) {
        self.put_reply(index, id, reply);
        if let Some(gone) = index.checked_sub(REPLY_WINDOW + 1) {
            self.0.delete(reply_key(gone));
        }
    }

    fn put_object(&mut self, key: &Key, entry: &Entry) {
        let mut value = Vec::with_capacity(8 + entry.record.size());
        value.extend_from_slice(&entry.revision.to_be_bytes());
        entry.record.encode(&mut value).expect("a vector grows as needed");
        self.0.put(object_key(key), value);
    }

    fn put_reply(&mut self, index: u64, id: ProposalId, reply: &Reply) {
        let remembered = Remembered { id: Some(id), reply: Some(reply.clone()) };
        self.0.put(reply_key(index), remembered.encode_to_vec());
    }
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

fn io(source: rocksdb::Error) -> Error {
    Error::Io { what: "state", source }
}
