//! What a database must give: an ordered map of bytes that is written in atomic batches and made durable by a sync.
//!
//! RocksDB is one medium ([`crate::Rocks`]); simulation has another, that loses what was not synced.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

/// Told once everything that was written before the sync is durable, or why it is not.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Sees one pair; says whether to go on.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

pub trait Medium: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Pairs in order, from `start` on.
    fn scan(&self, start: &[u8], each: Each<'_>) -> io::Result<()>;

    /// The last pair whose key is at most `key`.
    fn last(&self, key: &[u8]) -> io::Result<Option<(Vec<u8>, Vec<u8>)>>;

    /// All of a batch or nothing of it, visible at once, durable after the next sync.
    fn write(&self, batch: Batch) -> io::Result<()>;

    /// Asks for a sync; requests that wait together share one.
    fn sync(&self, done: Done);

    /// How many syncs there have been; nothing where nobody counts.
    fn syncs(&self) -> u64 {
        0
    }
}

/// Changes in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Batch(pub Vec<Change>);

#[derive(Clone, Debug)]
pub enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// From the first key on, up to but not including the second.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// Where a node keeps its log and its state.
#[derive(Clone)]
pub struct Storage {
    pub log: Arc<dyn Medium>,
    pub state: Arc<dyn Medium>,
}

// === impl Batch ===

impl Batch {
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.0.push(Change::Put(key.into(), value));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.0.push(Change::Delete(key.into()));
    }

    pub fn delete_range(&mut self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.0.push(Change::DeleteRange(from.into(), to.into()));
    }
}

/// Returns once everything written so far is durable.
pub(crate) async fn synced(medium: &dyn Medium) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    medium.sync(Box::new(move |result| drop(sender.send(result))));
    receiver.await.map_err(|_| io::Error::other("the medium has ended"))?
}
