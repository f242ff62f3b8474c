//! A disk that forgets, in a crash, what was not synced: all of it or its end, in whole batches.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use skein_invariant::{Entry, Observation};
use skein_log::{Batch, Change, Done, Each, Medium, NodeId, decode_entry};

use crate::recorder::{Recorder, digest};

type Pairs = OrdMap<Vec<u8>, Vec<u8>>;

#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

struct State {
    durable: Pairs,
    current: Pairs,
    /// Written since the last sync, oldest first.
    unsynced: Vec<Batch>,
    /// How many batches have ever been synced.
    synced: u64,
    /// What a sync costs on a disk in good health, and what it costs beyond that now.
    sync: Duration,
    slow: Duration,
    full: bool,
    /// Grows with each crash; what belongs to an older incarnation is refused.
    incarnation: u64,
    random: SmallRng,
    /// Whose log this is, and who is told of what is written to it.
    watched: Option<(NodeId, Recorder)>,
}

/// The disk as one incarnation of the node has it open.
pub(crate) struct Opened {
    disk: Disk,
    incarnation: u64,
}

// === impl Disk ===

impl Disk {
    pub(crate) fn new(seed: u64, sync: Duration, watched: Option<(NodeId, Recorder)>) -> Self {
        Self(Arc::new(Mutex::new(State {
            durable: Pairs::new(),
            current: Pairs::new(),
            unsynced: Vec::new(),
            synced: 0,
            sync,
            slow: Duration::ZERO,
            full: false,
            incarnation: 0,
            random: SmallRng::seed_from_u64(seed),
            watched,
        })))
    }

    pub(crate) fn open(&self) -> Arc<dyn Medium> {
        Arc::new(Opened { disk: self.clone(), incarnation: self.state().incarnation })
    }

    /// Keeps what was synced and a part of what was not.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let written = state.unsynced.len();
        let kept = state.random.random_range(0..=written);
        let unsynced = std::mem::take(&mut state.unsynced);
        let mut pairs = state.durable.clone();
        unsynced.into_iter().take(kept).for_each(|batch| apply(&mut pairs, batch));
        state.durable = pairs.clone();
        state.current = pairs;
        state.synced = 0;
        state.incarnation += 1;
    }

    /// The process has ended; what it wrote stays, synced or not.
    pub(crate) fn close(&self) {
        self.state().incarnation += 1;
    }

    /// The log's entries, as far as they were written.
    pub(crate) fn log(&self) -> Vec<Entry> {
        let pairs = self.state().current.clone();
        let entries = pairs.range(b"e".to_vec()..b"f".to_vec()).filter_map(|(_, value)| {
            let entry = decode_entry(Bytes::copy_from_slice(value)).ok()?;
            Some(Entry { index: entry.log_id.index, term: *entry.log_id.leader_id, digest: digest(value) })
        });
        entries.collect()
    }

    pub(crate) fn set_slow(&self, slow: Duration) {
        self.state().slow = slow;
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self, batch: &Batch) {
        let Some((node, recorder)) = &self.watched else { return };
        let mut last = self.current.range(..=entry_key(u64::MAX)).next_back().and_then(|(key, _)| index_of(key));
        for change in &batch.0 {
            if let Change::Put(key, _) = change
                && let Some(index) = index_of(key)
            {
                recorder.observe(&Observation::Written { node: *node, index, last });
                last = Some(index);
            }
        }
    }
}

fn entry_key(index: u64) -> Vec<u8> {
    [b"e", &index.to_be_bytes()[..]].concat()
}

fn index_of(key: &[u8]) -> Option<u64> {
    key.strip_prefix(b"e")?.try_into().ok().map(u64::from_be_bytes)
}

fn apply(pairs: &mut Pairs, batch: Batch) {
    for change in batch.0 {
        match change {
            Change::Put(key, value) => drop(pairs.insert(key, value)),
            Change::Delete(key) => drop(pairs.remove(&key)),
            Change::DeleteRange(from, to) => {
                let keys: Vec<Vec<u8>> = pairs.range(from..to).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| drop(pairs.remove(key)));
            }
        }
    }
}

// === impl Opened ===

impl Opened {
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.incarnation != self.incarnation {
            return Err(io::Error::other("the process has ended"));
        }
        Ok(state)
    }
}

impl Medium for Opened {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.alive()?.current.get(key).cloned())
    }

    fn scan(&self, start: &[u8], each: Each<'_>) -> io::Result<()> {
        let pairs = self.alive()?.current.clone();
        for (key, value) in pairs.range(start.to_vec()..) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, key: &[u8]) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let found = self.alive()?.current.range(..=key.to_vec()).next_back().map(|(key, value)| (key.clone(), value.clone()));
        Ok(found)
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut state = self.alive()?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.tell(&batch);
        apply(&mut state.current, batch.clone());
        state.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self, done: Done) {
        let Ok(state) = self.alive() else { return };
        let target = state.synced + state.unsynced.len() as u64;
        let cost = state.sync + state.slow;
        drop(state);
        let opened = Self { disk: self.disk.clone(), incarnation: self.incarnation };
        // A disk is no part of the process: a paused one does not stop it.
        tokio::spawn(async move {
            tokio::time::sleep(cost).await;
            if opened.reach(target) {
                done(Ok(()));
            }
        });
    }
}

impl Opened {
    /// Makes everything up to the batch of that number durable; false where the process has gone meanwhile.
    fn reach(&self, target: u64) -> bool {
        let Ok(mut state) = self.alive() else { return false };
        let count = usize::try_from(target.saturating_sub(state.synced)).unwrap_or(usize::MAX).min(state.unsynced.len());
        let batches: Vec<Batch> = state.unsynced.drain(..count).collect();
        if state.unsynced.is_empty() {
            state.durable = state.current.clone();
        } else {
            batches.into_iter().for_each(|batch| apply(&mut state.durable, batch));
        }
        state.synced = state.synced.max(target);
        true
    }
}
