//! The Raft log: entries by index, the vote, the committed index.
//!
//! An append is written at once and asks for a sync; whatever is appended while the disk is busy shares the next one.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::log_id;
use crate::medium::{Batch, Medium, synced};
use crate::tail::Tail;
use crate::{Error, Types, decode_entry, encode_entry};

type Result<T> = std::result::Result<T, std::io::Error>;

/// Entries have 9-byte keys (`e` and the index, big-endian); everything else has names.
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// One leader hands a follower at most this many bytes of entries at a time.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub struct LogStore {
    medium: Arc<dyn Medium>,
    recent: Arc<Mutex<Recent>>,
}

/// What need not be read from the medium, or is not written to it yet.
#[derive(Default)]
struct Recent {
    tail: Tail,
    /// The committed index, which goes to the medium with the next entries: it only saves work after a restart.
    committed: Option<Vec<u8>>,
}

// === impl LogStore ===

impl LogStore {
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium, recent: Arc::default() }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries are there, for retention.
    pub fn entries(&self) -> u64 {
        let last = self.last_entry().ok().flatten().map_or(0, |e| e.log_id.index);
        let purged = self.get::<Position>(PURGED).ok().flatten().map_or(0, |p| p.index);
        last.saturating_sub(purged)
    }

    /// How often the log was synced since this process began.
    pub fn syncs(&self) -> u64 {
        self.medium.syncs()
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let found = self.medium.get(key)?;
        let decode = |bytes: &[u8]| {
            serde_json::from_slice(bytes).map_err(|e| Error::Damaged {
                what: "log",
                at: String::from_utf8_lossy(key).into_owned(),
                why: e.to_string(),
            })
        };
        Ok(found.map(|bytes| decode(&bytes)).transpose()?)
    }

    fn put<T: Serialize>(&self, key: &[u8], value: &T) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(key, serde_json::to_vec(value)?);
        self.medium.write(batch)
    }

    fn last_entry(&self) -> Result<Option<EntryOf<Types>>> {
        let found = self.medium.last(&entry_key(u64::MAX))?;
        found.filter(|(key, _)| key.first() == Some(&b'e')).map(|(_, value)| decode(&value)).transpose()
    }

    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<EntryOf<Types>>> {
        if let Some(entries) = self.recent().tail.read(start..end, bytes_max) {
            return Ok(entries);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let end = entry_key(end);
        self.medium.scan(&entry_key(start), &mut |key, value| {
            if key.len() != end.len() || key >= end.as_slice() || (bytes > bytes_max && !entries.is_empty()) {
                return false;
            }
            bytes += value.len();
            entries.push(decode(value));
            true
        })?;
        entries.into_iter().collect()
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Position {
    term: u64,
    index: u64,
}

impl From<LogIdOf<Types>> for Position {
    fn from(id: LogIdOf<Types>) -> Self {
        Self { term: *id.leader_id, index: id.index }
    }
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn decode(bytes: &[u8]) -> Result<EntryOf<Types>> {
    let damaged = |why: String| Error::Damaged { what: "log", at: "an entry".into(), why };
    Ok(decode_entry(Bytes::copy_from_slice(bytes)).map_err(|e| damaged(e.to_string()))?)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> Result<Vec<EntryOf<Types>>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<EntryOf<Types>>> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>> {
        self.get(VOTE)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>> {
        let purged = self.get::<Position>(PURGED)?.map(|p| log_id(p.term, p.index));
        let last = self.last_entry()?.map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<()> {
        self.put(VOTE, vote)?;
        synced(&*self.medium).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<()> {
        self.recent().committed = Some(serde_json::to_vec(&committed.map(Position::from))?);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>> {
        let position = self.get::<Option<Position>>(COMMITTED)?.flatten();
        // The index is buffered while entries are synced, so it never runs ahead of them; but be safe about it.
        let last = self.last_entry()?.map(|entry| entry.log_id);
        Ok(position.map(|p| log_id(p.term, p.index)).filter(|committed| last.is_some_and(|last| last.index >= committed.index)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        let mut recent = self.recent();
        for entry in entries {
            let encoded = encode_entry(&entry);
            let (index, bytes) = (entry.log_id.index, encoded.len());
            batch.put(entry_key(index), encoded);
            recent.tail.push(entry, bytes);
        }
        if let Some(committed) = recent.committed.take() {
            batch.put(COMMITTED, committed);
        }
        drop(recent);
        self.medium.write(batch)?;
        self.medium.sync(Box::new(|result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<()> {
        let start = last.map_or(0, |id| id.index + 1);
        self.recent().tail.truncate_from(start);
        let mut batch = Batch::default();
        batch.delete_range(entry_key(start), entry_key(u64::MAX));
        self.medium.write(batch)?;
        synced(&*self.medium).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(PURGED, serde_json::to_vec(&Position::from(upto))?);
        batch.delete_range(entry_key(0), entry_key(upto.index + 1));
        self.medium.write(batch)?;
        synced(&*self.medium).await
    }
}
