//! The openraft node, and the one way to the replicated state.
//!
//! ```text
//!   Handle::propose ──▶ leader? ──yes──▶ openraft ──▶ log ──▶ apply ──▶ View
//!                          └──no──▶ peers ──▶ the leader's Handle           │
//!   Handle::read ───▶ read index from the leader ──▶ wait until applied ◀───┘
//! ```
//!
//! The store knows no transport: it opens streams through [`Peers`], and whoever accepts streams hands them to
//! [`Handle::serve`]. Only the daemon joins it with QUIC, and simulation with pipes.
//!
//! **Invariants:** a proposal that was answered is applied on the node that took it (read your writes); a proposal is
//! retried under one name only, so it is applied at most once.

mod agreement;
mod ends;
mod follow;
mod handle;
mod leadership;
mod membership;
mod network;
mod patience;
mod pipeline;
mod propose;
mod read;
mod relay;
mod replicas;
mod serve;
mod start;
mod wire;
mod witness;
mod writers;

use async_trait::async_trait;
use skein_peer::Channel;
use tokio::io::{AsyncRead, AsyncWrite};

pub use handle::{Handle, MemberStatus, Role};
pub use leadership::Leadership;
pub use membership::{Absences, Change, GRACE_MS, Health, LAG_ENTRIES_MAX, Standing, Step, plan};
pub use replicas::REPLICAS;
pub use skein_log::{Ended, Member, NodeId, Storage, Survivor, Topic, View, found_with, survivor};
pub use start::{Options, start};
pub use writers::Successor;

/// A stream to a peer or from one.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// The way to other nodes.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    async fn open(&self, peer: &Member, channel: Channel) -> std::io::Result<Box<dyn Duplex>>;
}

/// What a caller can do about it is in the variant: wait and retry, or give up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No quorum answered in time. The proposal may still be applied.
    #[error("no quorum of voters answered within {0:?}")]
    Timeout(std::time::Duration),
    /// The request cannot be carried out as it is.
    #[error("{0}")]
    Refused(String),
    /// This node's part of the store has stopped; the cluster's goes on elsewhere.
    #[error("this node's store has stopped, use another node: {0}")]
    Stopped(String),
    #[error(transparent)]
    Log(#[from] skein_log::Error),
}

impl Error {
    /// The same, for one more of those whom it concerns.
    pub(crate) fn shared(&self) -> Self {
        match self {
            Self::Timeout(after) => Self::Timeout(*after),
            Self::Refused(why) => Self::Refused(why.clone()),
            Self::Stopped(why) => Self::Stopped(why.clone()),
            Self::Log(why) => Self::Stopped(why.to_string()),
        }
    }
}
