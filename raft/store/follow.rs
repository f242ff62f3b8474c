//! A node that hears nothing of the leader has the log from another node: so does every replica, and a standby that is cut
//! off from the leader alone.
//!
//! ```text
//!   leader ──▶ voters, standbys ──▶ replicas ──▶ replicas          (each at most FOLLOWERS_MAX)
//! ```
//!
//! It asks a few others at once and takes the one that is nearest, by what the answer took and through how many nodes its
//! entries come. What comes is committed, under the vote of the leader, and goes into this node's openraft as if the leader
//! had sent it: log, snapshots and state are those of every other node. When the one that is followed goes, lags or stands
//! still, another is looked for. **Invariant:** nobody follows a node whose entries come through itself.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesResponse;
use skein_log::{Member, NodeId};
use skein_peer::{Channel, LogPosition, Offer, Relayed, Source};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::relay::BEAT;
use crate::wire::{Frames, append_of};
use crate::{Handle, Role};

/// A node that hears nothing of the leader itself for so long looks for another to follow.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// How old the news of the leader may be that come from another node.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A node that is followed and tells nothing for so long stands still, or is gone.
const STILL_MAX: Duration = BEAT.saturating_mul(4);

/// A node that the leader is about to leave follows another within this time, if it ever does.
pub(crate) const FOLLOWS_WITHIN: Duration = Duration::from_secs(2);

/// So long after it was asked to follow another, a node does so, though it hears the leader.
const ASKED_FOR: Duration = Duration::from_secs(20);

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How many are asked: some of Raft's members, which the entries reach first, and some replicas, which may be nearer.
const MEMBERS_ASKED: usize = 5;
const REPLICAS_ASKED: usize = 3;

const OFFER_TIMEOUT: Duration = Duration::from_secs(1);

/// After the first offer, others are waited for as long as it took, and this.
const OFFER_GRACE: Duration = Duration::from_millis(20);

/// A node through which entries come is worth a way that is so much longer.
const HOP_COST: Duration = Duration::from_millis(2);

/// Whom this node follows, and how it hears of the leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Following {
    /// Where what this node has comes from, while it follows another.
    source: Option<(Source, Instant)>,
    asked: Option<Instant>,
}

/// A node that could be followed.
struct Candidate {
    frames: Frames,
    member: Member,
    offer: Offer,
    took: Duration,
}

// === impl Following ===

impl Following {
    /// How long ago the leader was heard of by way of others.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.source.as_ref().map(|(source, at)| Duration::from_millis(source.silence_ms) + at.elapsed())
    }

    /// The node that is followed.
    fn node(&self) -> Option<NodeId> {
        self.source.as_ref()?.0.way.last().copied()
    }

    fn is_asked(&self) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < ASKED_FOR)
    }
}

/// What following this one costs; `None` where it cannot be.
fn cost(offer: &Offer, took: Duration, own: NodeId) -> Option<(bool, Duration)> {
    let source = offer.source.as_ref()?;
    let is_fresh = Duration::from_millis(source.silence_ms) < SILENCE_MAX / 2;
    let may = is_fresh && !offer.is_full && !source.way.contains(&own);
    let hops = u32::try_from(source.way.len()).unwrap_or(u32::MAX);
    may.then(|| (offer.leads, took + HOP_COST.saturating_mul(hops)))
}

/// Follows others whenever this node hears nothing of the leader itself, until the store ends.
pub(crate) async fn follow_loop(handle: Handle) {
    while handle.failure().is_none() {
        if !handle.wants_to_follow() {
            sleep(LOOK_INTERVAL).await;
            continue;
        }
        if let Some(Candidate { frames, member, offer, .. }) = handle.nearest().await {
            tracing::info!(node = member.name, way = offer.source.map_or(0, |source| source.way.len()), "this node follows another");
            let ended = handle.follow(frames).await;
            handle.following().send_modify(|following| following.source = None);
            tracing::info!(node = member.name, why = ended.err().map(|why| why.to_string()), "it is not followed any more");
        }
        // Not all at the same time, where many have lost the same one.
        sleep(LOOK_INTERVAL + LOOK_INTERVAL * u32::try_from(skein_log::random() % 8).unwrap_or(0)).await;
    }
}

impl Handle {
    /// Where this node's entries come from, itself included; what it tells those that follow it.
    pub(crate) fn source(&self) -> Source {
        let through = self.following().borrow().source.as_ref().map(|(source, _)| source.way.clone());
        let is_direct = self.direct_silence() <= self.leader_silence();
        let mut way = through.filter(|_| !is_direct && !self.leadership().is_self).unwrap_or_default();
        way.push(self.id());
        let silence_ms = match self.leadership().is_self {
            true => Some(0),
            // Since its start, a node may have heard of nobody yet.
            false => self.has_heard().then(|| u64::try_from(self.leader_silence().as_millis()).ok()).flatten(),
        };
        Source { way, silence_ms: silence_ms.unwrap_or(u64::MAX) }
    }

    /// The name of the node that this one follows; empty where it follows none but the leader.
    pub fn follows(&self) -> String {
        let node = self.following().borrow().node();
        node.and_then(|id| self.member(id)).map(|member| member.name).unwrap_or_default()
    }

    /// The leader asks this node to follow another; returns once it does.
    pub(crate) async fn asked_to_follow(&self) -> bool {
        self.following().send_modify(|following| following.asked = Some(Instant::now()));
        let mut following = self.following().subscribe();
        let fed = following.wait_for(|following| following.silence().is_some_and(|silence| silence < SILENCE_MAX));
        timeout(self.patience().real(FOLLOWS_WITHIN), fed).await.is_ok_and(|fed| fed.is_ok())
    }

    fn wants_to_follow(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        if membership.voter_ids().any(|voter| voter == self.id()) || self.is_receiving() {
            return false;
        }
        // Whoever is outside the membership will hear nothing from the leader.
        let is_outside = membership.get_node(&self.id()).is_none();
        is_outside || self.following().borrow().is_asked() || self.direct_silence() >= self.patience().real(DEAF_AFTER)
    }

    /// Of some that are asked the one that costs least.
    async fn nearest(&self) -> Option<Candidate> {
        let mut others = self.members();
        others.retain(|other| other.id != self.id() && !other.is_witness());
        let (mut replicas, mut members): (Vec<_>, Vec<_>) = others.into_iter().partition(|other| other.role == Role::Replica);
        shuffle(&mut members);
        shuffle(&mut replicas);
        let asked = members.into_iter().take(MEMBERS_ASKED).chain(replicas.into_iter().take(REPLICAS_ASKED));
        let mut offers: FuturesUnordered<_> = asked.map(|other| self.offer_of(other.member)).collect();
        let mut best: Option<((bool, Duration), Candidate)> = None;
        let begin = Instant::now();
        let mut deadline = begin + self.patience().real(OFFER_TIMEOUT);
        while let Ok(Some(offered)) = timeout_at(deadline, offers.next()).await {
            let Ok(candidate) = offered else { continue };
            let Some(cost) = cost(&candidate.offer, candidate.took, self.id()) else { continue };
            deadline = deadline.min(begin + begin.elapsed() * 2 + OFFER_GRACE);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    async fn offer_of(&self, member: Member) -> io::Result<Candidate> {
        let asked = Instant::now();
        let mut frames = Frames::new(self.open(&member, Channel::Follow).await?);
        let offer = frames.expect().await?;
        Ok(Candidate { frames, member, offer, took: asked.elapsed() })
    }

    /// Takes what another node has, until that or this node has enough of it.
    async fn follow(&self, mut frames: Frames) -> io::Result<()> {
        let view = self.local();
        frames.send(&LogPosition { term: view.term, index: view.applied }).await?;
        let (still_max, silence_max) = (self.patience().real(STILL_MAX), self.patience().real(SILENCE_MAX));
        while self.wants_to_follow() {
            let relayed = timeout(still_max, frames.expect::<Relayed>()).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let source = relayed.source.unwrap_or_default();
            if source.way.contains(&self.id()) {
                return Err(io::Error::other("its entries come through this node"));
            }
            if Duration::from_millis(source.silence_ms) > silence_max {
                return Err(io::Error::other("it hears nothing of the leader"));
            }
            self.heard_of_leader_through(Duration::from_millis(source.silence_ms));
            self.following().send_modify(|following| following.source = Some((source, Instant::now())));
            if let Some(header) = relayed.snapshot {
                self.take_snapshot(&header, &mut frames).await?;
            }
            if let Some(append) = relayed.append {
                let (request, _) = append_of(append)?;
                match self.raft().append_entries(request).await.map_err(io::Error::other)? {
                    AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {}
                    AppendEntriesResponse::Conflict => return Err(io::Error::other("its log does not go on from this one")),
                    AppendEntriesResponse::HigherVote(_) => return Err(io::Error::other("it knows an older leader only")),
                }
            }
            frames.send_bytes(bytes::Bytes::new()).await?;
        }
        Ok(())
    }
}

fn shuffle<T>(items: &mut [T]) {
    for at in (1..items.len()).rev() {
        items.swap(at, usize::try_from(skein_log::random() % (at as u64 + 1)).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_followed_that_has_news_and_room() {
        let offer =
            |way: &[NodeId], silence_ms| Offer { source: Some(Source { way: way.to_vec(), silence_ms }), leads: false, is_full: false };
        let ms = Duration::from_millis;
        let check = |offer: Offer, expected| assert_eq!(cost(&offer, ms(5), 9), expected, "{offer:?}");
        check(offer(&[1], 30), Some((false, ms(7))));
        check(offer(&[1, 4], 30), Some((false, ms(9))));
        // The leader itself comes last, however near it is.
        check(Offer { leads: true, ..offer(&[1], 0) }, Some((true, ms(7))));
        check(Offer { is_full: true, ..offer(&[1], 30) }, None);
        check(offer(&[1], 2_000), None);
        check(offer(&[1, 9, 4], 30), None);
        check(Offer::default(), None);
    }
}
