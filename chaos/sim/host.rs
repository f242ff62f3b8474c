//! A simulated process: its tasks make steps only while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use skein_log::{Clock, Host};
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    Paused,
    Dead,
}

pub(crate) struct Process {
    state: Mutex<State>,
    life: watch::Sender<Life>,
    clock: Clock,
    /// Of the run.
    begin: Instant,
}

struct State {
    random: SmallRng,
    /// Tasks that wanted to make a step while the process was paused.
    waiting: Vec<Waker>,
}

/// A run begins at midnight of 1970.
pub(crate) fn time_since(begin: Instant) -> Timestamp {
    let passed = i64::try_from(begin.elapsed().as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanosecond(passed.into()).unwrap_or(Timestamp::MAX)
}

// === impl Process ===

impl Process {
    pub(crate) fn new(seed: u64, begin: Instant) -> Self {
        let state = State { random: SmallRng::seed_from_u64(seed), waiting: Vec::new() };
        Self { state: Mutex::new(state), life: watch::Sender::new(Life::Running), clock: Clock::default(), begin }
    }

    pub(crate) fn set(&self, life: Life) {
        if *self.life.borrow() == Life::Dead {
            return;
        }
        self.life.send_replace(life);
        if life == Life::Running {
            std::mem::take(&mut self.state().waiting).into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) fn life(&self) -> Life {
        *self.life.borrow()
    }

    pub(crate) async fn died(&self) {
        let _ = self.life.subscribe().wait_for(|life| *life == Life::Dead).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Process {
    fn poll_runs(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.life() {
            Life::Running => Poll::Ready(()),
            Life::Paused => {
                self.state().waiting.push(context.waker().clone());
                Poll::Pending
            }
            Life::Dead => Poll::Pending,
        }
    }

    fn random(&self) -> u64 {
        self.state().random.next_u64()
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn now(&self) -> Timestamp {
        time_since(self.begin)
    }
}
