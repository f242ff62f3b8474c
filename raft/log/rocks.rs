//! A medium on RocksDB.
//!
//! The log has a write-ahead log, and a sync is its fdatasync; the state has none, and a sync is a flush of the
//! memtable. A thread of its own syncs; whatever is asked for while the disk is busy shares the next one.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use crate::medium::{Batch, Change, Done, Each, Medium, Storage};
use crate::{Error, io_error};

/// Syncs that may wait for the disk. openraft bounds its own pipeline far below this.
const SYNC_QUEUE_MAX: usize = 4096;

const LOG_MEMTABLE_BYTES: usize = 32 << 20;
const LOG_WAL_BYTES_MAX: u64 = 128 << 20;
const STATE_MEMTABLE_BYTES: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq)]
enum What {
    Log,
    State,
}

pub struct Rocks {
    db: Arc<DB>,
    what: What,
    sync: Option<mpsc::SyncSender<Done>>,
    thread: Option<JoinHandle<()>>,
    syncs: Arc<AtomicU64>,
}

impl Storage {
    /// Opens or makes `log/` and `state/` in a directory.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self { log: Arc::new(Rocks::open(directory, What::Log)?), state: Arc::new(Rocks::open(directory, What::State)?) })
    }
}

// === impl Rocks ===

impl Rocks {
    fn open(directory: &Path, what: What) -> Result<Self, Error> {
        let path = directory.join(what.name());
        let mut options = Options::default();
        options.create_if_missing(true);
        match what {
            What::Log => {
                options.set_write_buffer_size(LOG_MEMTABLE_BYTES);
                options.set_max_total_wal_size(LOG_WAL_BYTES_MAX);
            }
            What::State => options.set_write_buffer_size(STATE_MEMTABLE_BYTES),
        }
        let db = DB::open(&options, &path).map_err(|source| Error::Open { what: what.name(), path, source })?;
        let db = Arc::new(db);
        let (sync, requests) = mpsc::sync_channel(SYNC_QUEUE_MAX);
        let (thread_db, syncs) = (Arc::clone(&db), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&syncs);
        let thread = std::thread::Builder::new()
            .name(format!("{}-sync", what.name()))
            .spawn(move || sync_loop(&thread_db, what, &requests, &count))
            .map_err(|e| Error::Damaged { what: what.name(), at: "start".into(), why: e.to_string() })?;
        Ok(Self { db, what, sync: Some(sync), thread: Some(thread), syncs })
    }
}

impl Drop for Rocks {
    /// Waits for the thread, so that the database is closed when this returns: a process that ended meanwhile would take
    /// from RocksDB what it still uses.
    fn drop(&mut self) {
        drop(self.sync.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
        }
    }

    fn io(self) -> impl Fn(rocksdb::Error) -> io::Error {
        move |source| Error::Io { what: self.name(), source }.into()
    }
}

/// Waits for requests, syncs once for all that have come, answers them.
fn sync_loop(db: &DB, what: What, requests: &mpsc::Receiver<Done>, count: &AtomicU64) {
    while let Ok(first) = requests.recv() {
        let mut waiting = vec![first];
        waiting.extend(requests.try_iter());
        let result = match what {
            What::Log => db.flush_wal(true),
            What::State => db.flush(),
        };
        count.fetch_add(1, Ordering::Relaxed);
        for done in waiting {
            done(result.clone().map_err(what.io()));
        }
    }
}

impl Medium for Rocks {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(self.what.io())
    }

    fn scan(&self, start: &[u8], each: Each<'_>) -> io::Result<()> {
        for item in self.db.iterator(IteratorMode::From(start, Direction::Forward)) {
            let (key, value) = item.map_err(self.what.io())?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, key: &[u8]) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let found = self.db.iterator(IteratorMode::From(key, Direction::Reverse)).next();
        Ok(found.transpose().map_err(self.what.io())?.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut writes = WriteBatch::default();
        for change in batch.0 {
            match change {
                Change::Put(key, value) => writes.put(key, value),
                Change::Delete(key) => writes.delete(key),
                Change::DeleteRange(from, to) => writes.delete_range(from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(self.what == What::State);
        self.db.write_opt(writes, &options).map_err(self.what.io())
    }

    fn sync(&self, done: Done) {
        let refused = match &self.sync {
            Some(sync) => sync.send(done).err().map(|mpsc::SendError(done)| done),
            None => Some(done),
        };
        if let Some(done) = refused {
            done(Err(io_error("the sync thread has ended")));
        }
    }

    fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}
