//! Raft's clock: time as openraft measures it, which may go slower than that of the world.
//!
//! openraft's time-outs are fixed when it starts, in the numbers of a LAN. Where links are longer or disks slower than
//! those allow, it is not the numbers that change but the time that they are counted in: at a [`Clock`]'s pace of 8, a
//! time-out of 100 ms lasts 800 ms, and so do heartbeats, leases and elections, all in their proportions.
//!
//! **Invariant:** a clock never goes back, whatever its pace becomes; and no answer's truth depends on it, for reads ask
//! a majority (`raft/store/read.rs`). A wrong pace costs time only.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A clock that goes as the world's does.
const EVEN_PERMILLE: u32 = 1000;

/// A cheap clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<Line>>);

/// An instant of Raft's time, since its clock was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

/// Raft's time as a line over that of the world: where it was when its slope last changed, and its slope.
#[derive(Debug)]
struct Line {
    real: Instant,
    raft: Duration,
    pace: u32,
    /// What a second is to this clock, in milliseconds; only a faulty one has another number than 1000.
    drift_permille: u32,
}

// === impl Clock ===

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Line { real: Instant::now(), raft: Duration::ZERO, pace: 1, drift_permille: EVEN_PERMILLE })))
    }
}

impl Clock {
    pub fn now(&self) -> Moment {
        Moment(self.line().now())
    }

    /// How many times slower than the world this clock goes.
    pub fn pace(&self) -> u32 {
        self.line().pace
    }

    pub fn set_pace(&self, pace: u32) {
        let mut line = self.line();
        line.turn();
        line.pace = pace.max(1);
    }

    /// Lets the clock go wrong: 1010 gains one percent.
    pub fn set_drift(&self, permille: u32) {
        let mut line = self.line();
        line.turn();
        line.drift_permille = permille.max(1);
    }

    /// Lets the clock leap ahead.
    pub fn leap(&self, by: Duration) {
        self.line().raft += by;
    }

    /// What a span of Raft's time takes in the world.
    pub fn real(&self, span: Duration) -> Duration {
        self.line().real(span)
    }

    /// When in the world a moment will be, or was at the earliest.
    pub(crate) fn at(&self, moment: Moment) -> Instant {
        let line = self.line();
        line.real + line.real(moment.0.saturating_sub(line.raft))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn now(&self) -> Duration {
        self.raft + self.real.elapsed() * self.drift_permille / (self.pace * EVEN_PERMILLE)
    }

    fn turn(&mut self) {
        (self.raft, self.real) = (self.now(), Instant::now());
    }

    fn real(&self, span: Duration) -> Duration {
        span * (self.pace * EVEN_PERMILLE) / self.drift_permille
    }
}

// === impl Moment ===

impl openraft::Instant for Moment {
    fn now() -> Self {
        crate::runtime::clock().now()
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, span: Duration) {
        self.0 += span;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, span: Duration) {
        self.0 = self.0.saturating_sub(span);
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_from_where_it_was_when_the_pace_changes() {
        let clock = Clock::default();
        let begin = clock.now();
        let check = async |world_ms: u64, raft_ms: u64| {
            advance(Duration::from_millis(world_ms)).await;
            assert_eq!(clock.now() - begin, Duration::from_millis(raft_ms));
        };
        check(100, 100).await;
        clock.set_pace(4);
        check(0, 100).await;
        check(400, 200).await;
        clock.set_pace(1);
        check(50, 250).await;
        clock.set_drift(500);
        check(100, 300).await;
        clock.leap(Duration::from_secs(1));
        check(0, 1300).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_to_come_is_found_in_the_world() {
        let clock = Clock::default();
        clock.set_pace(3);
        let deadline = clock.now() + Duration::from_millis(100);
        assert_eq!(clock.at(deadline), Instant::now() + Duration::from_millis(300));
        advance(Duration::from_millis(150)).await;
        assert_eq!(clock.at(deadline), Instant::now() + Duration::from_millis(150));
        assert_eq!(clock.real(Duration::from_millis(20)), Duration::from_millis(60));
    }
}
