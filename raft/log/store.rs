//! The Raft log: entries by index, the vote, the committed index.
//!
//! An append writes to RocksDB's memtable and WAL at once and asks a thread of its own for the fdatasync; whatever is
//! appended while the disk is busy shares the next one.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::log_id;
use crate::{Error, Types, decode_entry, encode_entry};

type Result<T> = std::result::Result<T, std::io::Error>;

/// Entries have 9-byte keys (`e` and the index, big-endian); everything else has names.
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Appends that may wait for the disk. openraft bounds its own pipeline far below this.
const SYNC_QUEUE_MAX: usize = 4096;

/// One leader hands a follower at most this many bytes of entries at a time.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub struct LogStore {
    db: Arc<DB>,
    sync: mpsc::SyncSender<IOFlushed<Types>>,
}

// === impl LogStore ===

impl LogStore {
    pub fn open(directory: &Path) -> std::result::Result<Self, Error> {
        let path = directory.join("log");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(32 << 20);
        options.set_max_total_wal_size(128 << 20);
        let db = DB::open(&options, &path).map_err(|source| Error::Open { what: "log", path, source })?;
        let db = Arc::new(db);
        let (sync, requests) = mpsc::sync_channel(SYNC_QUEUE_MAX);
        let thread_db = Arc::clone(&db);
        std::thread::Builder::new()
            .name("log-sync".into())
            .spawn(move || sync_loop(&thread_db, &requests))
            .map_err(|e| Error::Damaged { what: "log", at: "start".into(), why: e.to_string() })?;
        Ok(Self { db, sync })
    }

    /// Bytes on disk, for `skein status` and retention.
    pub fn entries(&self) -> u64 {
        let last = self.last_entry().ok().flatten().map_or(0, |e| e.log_id.index);
        let purged = self.get::<Position>(PURGED).ok().flatten().map_or(0, |p| p.index);
        last.saturating_sub(purged)
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let found = self.db.get_pinned(key).map_err(io)?;
        let decode = |bytes: &[u8]| {
            serde_json::from_slice(bytes).map_err(|e| Error::Damaged {
                what: "log",
                at: String::from_utf8_lossy(key).into_owned(),
                why: e.to_string(),
            })
        };
        Ok(found.map(|bytes| decode(&bytes)).transpose()?)
    }

    fn put<T: Serialize>(&self, key: &[u8], value: &T, durability: Durability) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(matches!(durability, Durability::Synced));
        self.db.put_opt(key, serde_json::to_vec(value)?, &options).map_err(io)
    }

    fn last_entry(&self) -> Result<Option<EntryOf<Types>>> {
        let mut iter = self.db.raw_iterator();
        iter.seek_for_prev(entry_key(u64::MAX));
        match (iter.key(), iter.value()) {
            (Some(key), Some(value)) if key.first() == Some(&b'e') => decode(value).map(Some),
            _ => iter.status().map_err(io).map(|()| None),
        }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<EntryOf<Types>>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut iter = self.db.raw_iterator();
        iter.seek(entry_key(start));
        while let (Some(key), Some(value)) = (iter.key(), iter.value()) {
            if key.len() != 9 || key >= entry_key(end).as_slice() || (bytes > bytes_max && !entries.is_empty()) {
                break;
            }
            bytes += value.len();
            entries.push(decode(value)?);
            iter.next();
        }
        iter.status().map_err(io)?;
        Ok(entries)
    }
}

#[derive(Clone, Copy)]
enum Durability {
    Synced,
    Buffered,
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

/// Waits for requests, syncs the WAL once for all that have come, answers them.
fn sync_loop(db: &DB, requests: &mpsc::Receiver<IOFlushed<Types>>) {
    while let Ok(first) = requests.recv() {
        let mut waiting = vec![first];
        waiting.extend(requests.try_iter());
        let result = db.flush_wal(true);
        for callback in waiting {
            callback.io_completed(result.clone().map_err(io));
        }
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

fn io(source: rocksdb::Error) -> std::io::Error {
    Error::Io { what: "log", source }.into()
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
        self.put(VOTE, vote, Durability::Synced)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<()> {
        self.put(COMMITTED, &committed.map(Position::from), Durability::Buffered)
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
        let mut batch = WriteBatch::default();
        for entry in entries {
            batch.put(entry_key(entry.log_id.index), encode_entry(&entry));
        }
        self.db.write(batch).map_err(io)?;
        self.sync.send(callback).map_err(|_| std::io::Error::other("the log's sync thread has ended"))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<()> {
        let start = last.map_or(0, |id| id.index + 1);
        let mut batch = WriteBatch::default();
        batch.delete_range(entry_key(start), entry_key(u64::MAX));
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(io)
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<()> {
        self.put(PURGED, &Position::from(upto), Durability::Synced)?;
        let mut batch = WriteBatch::default();
        batch.delete_range(entry_key(0), entry_key(upto.index + 1));
        self.db.write(batch).map_err(io)
    }
}
