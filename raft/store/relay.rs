//! What a node does for those that follow it (`follow.rs`): it tells each what it has applied, as that grows, and how long
//! ago it heard of the leader. Who lacks more than the log still has gets the state first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftLogReader;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::vote::RaftLeaderId;
use skein_log::{Types, log_id};
use skein_peer::{LogPosition, Offer, Relayed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::Handle;
use crate::follow::SILENCE_MAX;
use crate::network::SnapshotHeader;
use crate::wire::{Frames, encode_append, send_state, to_json};

/// How many follow one node: with so many, five hundred nodes are at most three behind the leader.
pub(crate) const FOLLOWERS_MAX: usize = 8;

/// Who has been made an offer takes it within this time, or has taken another.
const CHOICE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a follower hears of the leader where there is nothing else to tell.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// So many messages are on their way to a follower; what comes meanwhile goes together.
const IN_FLIGHT_MAX: usize = 4;

/// A leader sends away whoever follows it after this time: there may be another to follow by now.
const BESIDE_LEADER: Duration = Duration::from_secs(10);

/// The places of those that follow this node.
pub(crate) type Places = Arc<Semaphore>;

/// One that follows.
struct Follower<'a> {
    handle: &'a Handle,
    frames: &'a mut Frames,
    /// What it has, or has been sent.
    sent: LogIdOf<Types>,
    in_flight: usize,
    _place: OwnedSemaphorePermit,
}

impl Handle {
    fn offer(&self) -> Offer {
        let is_full = self.places().available_permits() == 0 || self.works().is_err();
        Offer { source: Some(self.source()), leads: self.leadership().is_self, is_full }
    }

    pub(crate) async fn serve_follower(&self, frames: &mut Frames) -> io::Result<()> {
        if self.is_witness() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        frames.send(&self.offer()).await?;
        let begin = timeout(CHOICE_TIMEOUT, frames.expect::<LogPosition>()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let _place = Arc::clone(self.places()).try_acquire_owned().map_err(io::Error::other)?;
        let sent = log_id(begin.term, begin.index);
        Follower { handle: self, frames, sent, in_flight: 0, _place }.feed().await
    }
}

// === impl Follower ===

impl Follower<'_> {
    /// Until the follower goes, or has to.
    async fn feed(mut self) -> io::Result<()> {
        let mut view = self.handle.watch();
        let mut standing = self.handle.standing();
        let begin = Instant::now();
        let led = self.handle.leadership().is_self;
        let mut beat = begin;
        while self.handle.works().is_ok() {
            let leads = self.handle.leadership().is_self;
            if leads && (!led || begin.elapsed() > BESIDE_LEADER) {
                return Err(io::Error::other("this node leads, and is better left alone"));
            }
            let has_room = self.in_flight < IN_FLIGHT_MAX;
            let is_news = standing.has_changed().unwrap_or(false) || view.borrow_and_update().applied > self.sent.index;
            let mut is_behind = false;
            if has_room && (is_news || Instant::now() >= beat) {
                standing.mark_unchanged();
                beat = Instant::now() + BEAT;
                is_behind = self.tell().await?;
            }
            // One that answers nothing is given up.
            let until = if has_room { beat } else { beat + SILENCE_MAX };
            tokio::select! {
                answer = self.frames.next_bytes() => {
                    answer?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    self.in_flight = self.in_flight.saturating_sub(1);
                }
                () = std::future::ready(()), if is_behind => {}
                changed = view.changed(), if has_room => changed.map_err(io::Error::other)?,
                changed = standing.changed(), if has_room => changed.map_err(io::Error::other)?,
                () = sleep_until(until) => if !has_room { return Err(io::ErrorKind::TimedOut.into()) },
            }
        }
        Ok(())
    }

    /// Tells how things stand, and the next entries that there are; whether more of them are left.
    async fn tell(&mut self) -> io::Result<bool> {
        // What has been applied was committed under this vote or an earlier one, for it is read afterwards.
        let view = self.handle.local();
        let vote = self.handle.raft().metrics().borrow_watched().vote;
        let mut relayed = Relayed { source: Some(self.handle.source()), ..Relayed::default() };
        if !vote.is_committed() || vote.leader_id().term() < view.term {
            return self.send(&relayed).await.map(|()| false);
        }
        let (next, end) = (self.sent.index + 1, view.applied + 1);
        let entries = if next < end { self.handle.log().clone().limited_get_log_entries(next, end).await? } else { Vec::new() };
        // Who has nothing lacks entry 0 as well.
        let lacks = entries.first().is_none_or(|first| first.log_id.index != next || next == 1);
        if next < end && lacks {
            return self.send_state(vote, relayed).await.map(|()| true);
        }
        let previous = self.sent;
        self.sent = entries.last().map_or(previous, |last| last.log_id);
        let request = AppendEntriesRequest { vote, prev_log_id: Some(previous), entries, leader_commit: Some(self.sent) };
        relayed.append = Some(encode_append(&request, self.handle.pace()));
        self.send(&relayed).await.map(|()| self.sent.index < view.applied)
    }

    async fn send_state(&mut self, vote: VoteOf<Types>, mut relayed: Relayed) -> io::Result<()> {
        let snapshot = self.handle.raft().get_snapshot().await.map_err(io::Error::other)?;
        let snapshot = snapshot.ok_or_else(|| io::Error::other("there is no state yet"))?;
        let last = snapshot.meta.last_log_id.filter(|last| last.index > self.sent.index);
        let last = last.ok_or_else(|| io::Error::other("the log has a gap"))?;
        relayed.snapshot = Some(to_json(&SnapshotHeader { vote, meta: snapshot.meta }));
        self.send(&relayed).await?;
        send_state(self.frames, &snapshot.snapshot).await?;
        self.sent = last;
        Ok(())
    }

    async fn send(&mut self, relayed: &Relayed) -> io::Result<()> {
        self.in_flight += 1;
        self.frames.send(relayed).await
    }
}
