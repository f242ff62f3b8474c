//! How long peers take to answer, and so how slow Raft's clock must go here.
//!
//! Raft elects only where a vote takes much less than an election's time-out (Raft paper, section 5.6). A peer's answers
//! are measured as TCP measures its own (RFC 6298): smoothed, with four times their variation as a margin, and with a
//! back-off that doubles where none comes in time (Karn's algorithm). What counts is the slowest of the fastest peers
//! that make a majority, so one bad disk among five slows nobody.
//!
//! ```text
//!   votes, appends ──answered, late──▶ Patience ──▶ the clock's pace ──▶ goes out with votes and appends ──told──▶ peers
//! ```
//!
//! A leader's heartbeats come at its pace, so who follows goes no faster than its leader; who is asked for a vote, no
//! faster than the candidate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use skein_log::{Clock, NodeId};
use tokio::time::{Instant, sleep};

use crate::handle::Raft;

/// What a vote may take at an even pace: openraft gives it the shortest of its election time-outs.
pub(crate) const VOTE_TIMEOUT: Duration = Duration::from_millis(50);

/// Election time-outs of 5 to 8 s; who needs more has no cluster.
const PACE_MAX: u32 = 100;

/// What was measured or told longer ago than this says nothing any more.
const FRESH: Duration = Duration::from_secs(10);

/// An answer that stands out counts as four times the usual one, and that is taken to be at least this: what a cut link
/// or a process that stood still held back is no measure of the next.
const USUAL_MIN: Duration = Duration::from_micros(12_500);
const OUTLIER: u32 = 4;

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A cheap clone.
#[derive(Clone)]
pub(crate) struct Patience {
    id: NodeId,
    clock: Clock,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    voters: BTreeSet<NodeId>,
    measured: BTreeMap<NodeId, Measured>,
    /// The paces that leaders and candidates have named, and when.
    told: BTreeMap<NodeId, (u32, Instant)>,
}

/// What is known of one peer's answers.
#[derive(Debug)]
struct Measured {
    estimate: Option<Estimate>,
    /// Set while answers come too late: the pace at which the next may be in time.
    back_off: Option<u32>,
    at: Instant,
}

/// RFC 6298, section 2.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

// === impl Patience ===

impl Patience {
    pub(crate) fn new(id: NodeId, clock: Clock) -> Self {
        Self { id, clock, known: Arc::default() }
    }

    pub(crate) fn pace(&self) -> u32 {
        self.clock.pace()
    }

    /// What a span of Raft's time takes in the world.
    pub(crate) fn real(&self, span: Duration) -> Duration {
        self.clock.real(span)
    }

    /// A peer has answered what was sent to it then.
    pub(crate) fn answered(&self, peer: NodeId, sent: Instant) {
        self.learn(|known, pace, now| known.answered(peer, now - sent, pace, now));
    }

    /// A peer has answered a vote: in time or not.
    pub(crate) fn voted(&self, peer: NodeId, sent: Instant) {
        self.learn(|known, pace, now| match now - sent > VOTE_TIMEOUT * pace {
            true => known.late(peer, sent, pace, now),
            false => known.answered(peer, now - sent, pace, now),
        });
    }

    /// A leader or a candidate has said how slow its clock goes; those of an older version say nothing.
    pub(crate) fn told(&self, peer: NodeId, pace: u32) {
        if peer != self.id && pace > 0 {
            self.learn(|known, _, now| {
                known.told.insert(peer, (pace, now));
            });
        }
    }

    fn learn(&self, learn: impl FnOnce(&mut Known, u32, Instant)) {
        let before = self.clock.pace();
        let mut known = self.known();
        let now = Instant::now();
        learn(&mut known, before, now);
        let pace = known.pace(self.id, now);
        drop(known);
        if pace != before {
            self.clock.set_pace(pace);
            tracing::info!(pace, before, "elections and heartbeats take so many times as long as on a fast network");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps up with who votes, and lets go of what is not fresh any more.
pub(crate) async fn keep(patience: Patience, raft: Raft) {
    while raft.metrics().borrow_watched().running_state.is_ok() {
        let voters = raft.metrics().borrow_watched().membership_config.voter_ids().collect();
        patience.learn(|known, _, _| known.voters = voters);
        sleep(LOOK_INTERVAL).await;
    }
}

// === impl Known ===

impl Known {
    fn answered(&mut self, peer: NodeId, took: Duration, pace: u32, now: Instant) {
        let measured = self.measured.entry(peer).or_insert(Measured { estimate: None, back_off: None, at: now });
        measured.at = now;
        measured.estimate = Some(match (measured.back_off.take(), measured.estimate) {
            // After a back-off the estimate begins anew, with what was in time.
            (Some(_), _) => Estimate::first(took.min(VOTE_TIMEOUT * pace)),
            (None, Some(estimate)) => estimate.next(took.min(estimate.smoothed.max(USUAL_MIN) * OUTLIER)),
            (None, None) => Estimate::first(took.min(USUAL_MIN * OUTLIER)),
        });
    }

    fn late(&mut self, peer: NodeId, sent: Instant, pace: u32, now: Instant) {
        let took = now - sent;
        match self.measured.get_mut(&peer) {
            // Of several that come late together, only those say something new that were sent at the present pace.
            Some(measured) if sent < measured.at => {}
            Some(measured) => (measured.back_off, measured.at) = (Some(backed_off(pace, took)), now),
            None => drop(self.measured.insert(peer, Measured { estimate: None, back_off: Some(backed_off(pace, took)), at: now })),
        }
    }

    /// How slow the clock must go.
    fn pace(&self, id: NodeId, now: Instant) -> u32 {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        let told = self.told.values().filter(|(_, at)| fresh(*at)).map(|(pace, _)| *pace).max();
        let voters = self.voters.iter().filter(|voter| **voter != id && self.voters.contains(&id));
        let measured = voters.filter_map(|voter| self.measured.get(voter)).filter(|measured| fresh(measured.at));
        let mut needs: Vec<u32> = measured.map(Measured::pace).collect();
        needs.sort_unstable();
        // With this node itself, so many make a majority.
        let others = self.voters.len() / 2;
        let need = needs.get(others.saturating_sub(1)).or(needs.last()).copied();
        told.max(need).unwrap_or(1).clamp(1, PACE_MAX)
    }
}

fn backed_off(pace: u32, took: Duration) -> u32 {
    pace_for(took * 3 / 2).min(pace * 2)
}

/// The pace at which a vote may take so long.
fn pace_for(span: Duration) -> u32 {
    u32::try_from(span.as_micros().div_ceil(VOTE_TIMEOUT.as_micros())).unwrap_or(u32::MAX)
}

impl Measured {
    fn pace(&self) -> u32 {
        self.back_off.or(self.estimate.map(|estimate| pace_for(estimate.bound()))).unwrap_or(1)
    }
}

impl Estimate {
    fn first(took: Duration) -> Self {
        Self { smoothed: took, variation: took / 2 }
    }

    fn next(self, took: Duration) -> Self {
        let variation = (self.variation * 3 + self.smoothed.abs_diff(took)) / 4;
        Self { smoothed: (self.smoothed * 7 + took) / 8, variation }
    }

    /// What an answer takes at most, nearly always; and twice what it takes usually, so that one candidate has its votes
    /// before the next one stands.
    fn bound(self) -> Duration {
        (self.smoothed + self.variation * 4).max(self.smoothed * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = 1;

    enum Heard {
        /// An answer of a peer, and how many milliseconds it took.
        Answer(NodeId, u64),
        Late(NodeId, u64),
        Told(NodeId, u32),
        /// So many milliseconds in which nothing is heard.
        Nothing(u64),
    }
    use Heard::{Answer, Late, Nothing, Told};

    /// Among three voters: after all that was heard, and after each of it, the clock goes so slow.
    fn check(heard: impl IntoIterator<Item = Heard>, expected: &[u32]) {
        let mut known = Known { voters: [1, 2, 3].into(), ..Known::default() };
        let mut now = Instant::now() + Duration::from_secs(3600);
        let mut pace = 1;
        let mut paces = vec![];
        for one in heard {
            match one {
                Answer(peer, ms) => known.answered(peer, Duration::from_millis(ms), pace, now),
                Late(peer, ms) => known.late(peer, now - Duration::from_millis(ms), pace, now),
                Told(peer, told) => {
                    known.told.insert(peer, (told, now));
                }
                Nothing(ms) => now += Duration::from_millis(ms),
            }
            pace = known.pace(ME, now);
            paces.push(pace);
        }
        assert_eq!(paces, expected);
    }

    #[test]
    fn a_rack_needs_no_patience() {
        check([Answer(2, 1), Answer(3, 2), Answer(2, 15), Nothing(60_000)], &[1, 1, 1, 1]);
    }

    #[test]
    fn a_vote_that_comes_late_doubles_the_patience_until_one_is_in_time() {
        let heard = [Late(2, 175), Nothing(400), Late(2, 175), Nothing(400), Answer(2, 175)];
        check(heard, &[2, 2, 4, 4, 11]);
    }

    #[test]
    fn what_is_usual_settles_at_twice_the_way() {
        let heard = [Late(2, 75), Nothing(200)].into_iter().chain((0..20).map(|_| Answer(2, 75)));
        let mut expected = vec![2, 2, 5, 4, 4];
        expected.resize(22, 3);
        check(heard, &expected);
    }

    #[test]
    fn answers_that_a_cut_held_back_together_count_once() {
        check([Nothing(3000), Late(2, 1450), Late(2, 1350), Late(2, 150), Nothing(10), Answer(2, 2)], &[1, 2, 2, 2, 2, 1]);
    }

    #[test]
    fn the_faster_of_two_peers_makes_the_majority() {
        check([Late(2, 450), Answer(3, 1), Nothing(400), Late(2, 450)], &[2, 1, 1, 1]);
    }

    #[test]
    fn who_follows_goes_no_faster_than_the_leader() {
        check([Told(3, 7), Told(2, 2), Told(3, 3), Nothing(9_000), Told(2, 2), Nothing(2_000)], &[7, 7, 3, 3, 3, 2]);
    }
}
