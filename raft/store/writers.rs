//! Where writes come from, and so where the leader should be: whoever writes from another region waits a round trip
//! longer for each.
//!
//! Controllers write where the leader is, so what they write says nothing; nor do a few writes, or half a minute that is
//! not over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skein_log::NodeId;
use tokio::time::Instant;

use crate::membership::{Health, LAG_ENTRIES_MAX, Standing};
use crate::{Handle, MemberStatus, Role};

/// What is counted at a time. Who leads for less than this is not asked to lead no more.
const WINDOW: Duration = Duration::from_secs(30);

/// So many writes in a window make it worth while to move.
const WRITES_MIN: u64 = 200;

/// Counts for each term that this node leads in. A cheap clone.
#[derive(Clone, Default)]
pub(crate) struct Writers(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    term: u64,
    begin: Option<Instant>,
    now: BTreeMap<NodeId, u64>,
    /// The last window that is over.
    before: BTreeMap<NodeId, u64>,
}

/// Who should lead, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    pub id: NodeId,
    pub why: String,
}

// === impl Writers ===

impl Writers {
    /// A node has sent the leader of a term so many writes.
    pub(crate) fn wrote(&self, term: u64, node: NodeId, writes: u64) {
        let mut counts = self.counts();
        counts.turn(term, Instant::now());
        *counts.now.entry(node).or_default() += writes;
    }

    /// The counts of the last window that is over, once.
    fn take_last_window(&self, term: u64) -> BTreeMap<NodeId, u64> {
        let mut counts = self.counts();
        counts.turn(term, Instant::now());
        std::mem::take(&mut counts.before)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn turn(&mut self, term: u64, now: Instant) {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        let begin = *self.begin.get_or_insert(now);
        let windows = now.duration_since(begin).as_secs() / WINDOW.as_secs();
        if windows > 0 {
            let ended = std::mem::take(&mut self.now);
            self.before = if windows == 1 { ended } else { BTreeMap::new() };
            self.begin = Some(now);
        }
    }
}

/// Decides whether a voter of another region should lead: one where more than two thirds of the writes come from.
fn closer(members: &[MemberStatus], standing: &BTreeMap<String, Standing>, writes: &BTreeMap<NodeId, u64>) -> Option<Successor> {
    let of = |member: &MemberStatus| standing.get(&member.member.name).cloned().unwrap_or_default();
    let leader = members.iter().find(|member| member.role == Role::Leader)?;
    let mut regions = BTreeMap::<String, u64>::new();
    for member in members {
        *regions.entry(of(member).region().into()).or_default() += writes.get(&member.id).copied().unwrap_or(0);
    }
    let total: u64 = regions.values().sum();
    let (region, count) = regions.into_iter().max_by_key(|(_, count)| *count)?;
    if region.is_empty() || region == of(leader).region() || total < WRITES_MIN || 3 * count <= 2 * total {
        return None;
    }
    let is_able = |member: &&MemberStatus| {
        let standing = of(member);
        let has_all = member.matched.zip(leader.matched).is_some_and(|(at, last)| at + LAG_ENTRIES_MAX >= last);
        member.role == Role::Voter && standing.region() == region && standing.health == Health::Good && has_all
    };
    let next = members.iter().filter(is_able).max_by_key(|member| (writes.get(&member.id), member.matched))?;
    let why = format!(
        "{count} of {total} writes of the last {} s came from region {region}: {} leads instead of {}",
        WINDOW.as_secs(),
        next.member.name,
        leader.member.name
    );
    Some(Successor { id: next.id, why })
}

impl Handle {
    /// Who should lead instead of this node, if it leads and there is one.
    pub fn planned_leader(&self, standing: &BTreeMap<String, Standing>) -> Option<Successor> {
        let leadership = self.leadership();
        let writes = leadership.is_self.then(|| self.writers().take_last_window(leadership.term))?;
        closer(&self.members(), standing, &writes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Of a leader and two voters, each in a region of its own, and a standby in the third.
    fn check(writes: [u64; 4], matched: [u64; 4], health: Health, expected: Option<NodeId>) {
        let roles = [Role::Leader, Role::Voter, Role::Voter, Role::Standby];
        let regions = ["eu/1", "us/1", "asia/1", "asia/2"];
        let members: Vec<MemberStatus> = (0..4)
            .map(|at| {
                let id = at as u64 + 1;
                let member = skein_log::Member { name: format!("n{id}"), ..Default::default() };
                MemberStatus { id, member, role: roles[at], matched: Some(matched[at]) }
            })
            .collect();
        let standing = (0..4).map(|at| (format!("n{}", at + 1), Standing { health, zone: regions[at].into() })).collect();
        let writes = (1..).zip(writes).collect();
        assert_eq!(closer(&members, &standing, &writes).map(|successor| successor.id), expected, "{writes:?}");
    }

    #[test]
    fn the_leader_is_where_most_writes_come_from() {
        let level = [1000; 4];
        check([900, 10, 10, 10], level, Health::Good, None);
        check([100, 10, 10, 900], level, Health::Good, Some(3));
        check([100, 900, 10, 10], level, Health::Good, Some(2));
        check([340, 660, 0, 0], level, Health::Good, None);
        check([10, 180, 0, 0], level, Health::Good, None);
        check([0, 900, 0, 0], [1000, 700, 1000, 1000], Health::Good, None);
        check([0, 900, 0, 0], level, Health::Flapping, None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_window_that_is_over_counts() {
        let writers = Writers::default();
        let check = |term, expected: &[(NodeId, u64)]| {
            assert_eq!(writers.take_last_window(term), expected.iter().copied().collect());
        };
        writers.wrote(3, 1, 5);
        writers.wrote(3, 2, 7);
        check(3, &[]);
        advance(WINDOW).await;
        check(3, &[(1, 5), (2, 7)]);
        check(3, &[]);
        writers.wrote(3, 1, 1);
        advance(WINDOW).await;
        check(3, &[(1, 1)]);
        advance(WINDOW * 2).await;
        check(3, &[]);
        writers.wrote(4, 1, 1);
        advance(WINDOW).await;
        check(5, &[]);
    }
}
