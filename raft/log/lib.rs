//! What survives a crash: the Raft log and the vote in one database, the replicated state in another.
//!
//! ```text
//!   append ──▶ log/   (WAL; one fdatasync for all that arrived meanwhile) ──▶ committed ──▶ apply
//!                                                                                            │
//!   state/ (no WAL; objects and the applied index in one write batch)  ◀─────────────────────┘
//! ```
//!
//! The state is written without a log of its own: what a crash loses of it is replayed from the Raft log.
//! **Invariants:** the applied index is written in the same batch as the objects, so the state on disk is always that
//! of one index; the log is never purged past what the state has flushed.

mod clock;
mod digests;
mod disk;
mod entry;
mod found;
mod machine;
mod medium;
mod recent;
mod rocks;
mod runtime;
mod store;
mod survivor;
mod tail;
mod types;

pub use clock::{Clock, Moment};
pub use digests::Digests;
pub use disk::{Disk, Loaded};
pub use entry::{decode_entry, encode_entry, log_id};
pub use found::found_with;
pub use machine::{Machine, Opened, View};
pub use medium::{Batch, Change, Done, Each, Medium, Storage};
pub use recent::{Ended, Recent, Topic};
pub use rocks::Rocks;
pub use runtime::{Host, Runtime, clock, hosted, now, random, spawn};
pub use store::LogStore;
pub use survivor::{Survivor, survivor};
pub use types::{Answer, Member, NodeId, Proposal, Types};

use std::path::PathBuf;

/// The directory cannot be used. The daemon does not start on any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the {what} database in {path}: {source}")]
    Open { what: &'static str, path: PathBuf, source: rocksdb::Error },
    #[error("the {what} database is damaged at {at}: {why}")]
    Damaged { what: &'static str, at: String, why: String },
    #[error("the state was written in format {found}, this version reads up to {known}")]
    Format { found: u32, known: u32 },
    #[error("cannot read or write the {what} database: {source}")]
    Io { what: &'static str, source: rocksdb::Error },
    #[error(transparent)]
    Medium(#[from] std::io::Error),
}

fn io_error(why: &'static str) -> std::io::Error {
    std::io::Error::other(why)
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Medium(error) => error,
            other => Self::other(other),
        }
    }
}
