//! What is on disk: entries, the log's database and the state's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, Membership, RaftLogReader};
use prost::Message;
use skein_log::{
    Batch, Change, Done, Each, LogStore, Machine, Medium, Member, Proposal, Storage, Types, decode_entry, encode_entry, found_with, log_id,
};

use crate::command::command;
use crate::golden::{check_bytes, read};
use crate::state::{check_same, state};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Pairs>>);

impl Memory {
    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each pair as a line: golden files keep the lengths before keys and values.
    fn dump(&self) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small").to_be_bytes();
        self.pairs().iter().flat_map(|(key, value)| [&length(key)[..], key, &length(value), value].concat()).collect()
    }

    fn load(mut dump: &[u8]) -> Self {
        let mut next = || {
            let (length, rest) = dump.split_first_chunk().expect("a length");
            let (bytes, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            dump = rest;
            (bytes.to_vec(), rest.is_empty())
        };
        let mut pairs = Pairs::new();
        loop {
            let (key, _) = next();
            let (value, is_last) = next();
            pairs.insert(key, value);
            if is_last {
                return Self(Arc::new(Mutex::new(pairs)));
            }
        }
    }
}

impl Medium for Memory {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.pairs().get(key).cloned())
    }

    fn scan(&self, start: &[u8], each: Each<'_>) -> io::Result<()> {
        let pairs = self.pairs().clone();
        let _ = pairs.range(start.to_vec()..).all(|(key, value)| each(key, value));
        Ok(())
    }

    fn last(&self, key: &[u8]) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.pairs().range(..=key.to_vec()).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        for change in batch.0 {
            match change {
                Change::Put(key, value) => drop(self.pairs().insert(key, value)),
                Change::Delete(key) => drop(self.pairs().remove(&key)),
                Change::DeleteRange(from, to) => self.pairs().retain(|key, _| *key < from || *key >= to),
            }
        }
        Ok(())
    }

    fn sync(&self, done: Done) {
        done(Ok(()));
    }
}

fn member() -> Member {
    Member { name: "node-1".into(), address: "198.18.0.11:6444".into(), witness: None }
}

#[test]
fn entries_are_of_format_1() {
    let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member())])).expect("one voter is a membership");
    let payloads = [
        ("blank", EntryPayload::Blank),
        ("normal", EntryPayload::Normal(Proposal(command().encode_to_vec().into()))),
        ("membership", EntryPayload::Membership(membership)),
    ];
    for (name, payload) in payloads {
        let entry = openraft::type_config::alias::EntryOf::<Types> { log_id: log_id(3, 18), payload };
        let name = format!("entry-{name}-1");
        check_bytes(&name, &encode_entry(&entry));
        let found = decode_entry(Bytes::from(read(&name, b""))).expect("it is an entry");
        assert_eq!(encode_entry(&found), encode_entry(&entry));
    }
}

#[tokio::test]
async fn databases_are_read_as_they_were_written() {
    let (log, disk) = (Memory::default(), Memory::default());
    let storage = Storage { log: Arc::new(log.clone()), state: Arc::new(disk.clone()) };
    found_with(&storage, 1, member(), &state()).await.expect("an empty storage takes a state");
    check_bytes("database-log-1", &log.dump());
    check_bytes("database-state-1", &disk.dump());

    let mut log = LogStore::new(Arc::new(Memory::load(&read("database-log-1", b""))));
    let vote = log.read_vote().await.expect("the log is readable").expect("a vote was saved");
    assert_eq!(vote, openraft::type_config::alias::VoteOf::<Types>::new(1, 1));
    let bounds = log.get_log_state().await.expect("the log is readable");
    assert_eq!(bounds.last_purged_log_id, Some(log_id(1, 1)));
    let (_, view, _) = Machine::open(Arc::new(Memory::load(&read("database-state-1", b""))), true).expect("the state is readable");
    let view = view.borrow();
    assert_eq!((view.applied, view.term), (1, 1));
    check_same(&view.state, &state());
}
