//! Loads, and what they cost: clients that do one thing after the other, events that many wait for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::Notify;

use crate::measure::RECOVERY;

#[derive(Default)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) latencies: Vec<Duration>,
    /// What the servers used of the processor for one, in microseconds.
    pub(crate) cpu_micros: f64,
    /// How often all servers together synced their logs for one.
    pub(crate) syncs: f64,
    /// How often they encoded an object for one, instead of copying its bytes.
    pub(crate) encoded: f64,
    /// What of the processor's time that took, in hundredths.
    pub(crate) encoding_percent: f64,
}

/// What servers have used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// Of the processor, in hundredths of a second, as Linux counts it.
    pub(crate) ticks: u64,
    pub(crate) syncs: u64,
    pub(crate) encoded: u64,
    pub(crate) encoding_seconds: f64,
}

/// Events on their way from a write to many watchers. A cheap clone.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Inner>);

struct Inner {
    expected: usize,
    begun: Mutex<Vec<Instant>>,
    latencies: Mutex<Vec<Duration>>,
    complete: Notify,
}

/// One of the watchers; its events come in the order of the writes.
pub(crate) struct Watcher {
    arrivals: Arrivals,
    seen: usize,
}

// === impl Load ===

impl Load {
    /// With what the servers used for it.
    pub(crate) fn with(self, before: Used, after: Used) -> Self {
        let operations = self.latencies.len().max(1) as f64;
        let each = |before: u64, after: u64| (after - before) as f64 / operations;
        let cpu_micros = each(before.ticks, after.ticks) * 10_000.0;
        let encoding_percent = (after.encoding_seconds - before.encoding_seconds) * 1e8 / (cpu_micros * operations).max(1.0);
        Self { cpu_micros, syncs: each(before.syncs, after.syncs), encoded: each(before.encoded, after.encoded), encoding_percent, ..self }
    }
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn new(watchers: usize, writes: usize) -> Self {
        let expected = watchers * writes;
        Self(Arc::new(Inner { expected, begun: Mutex::default(), latencies: Mutex::default(), complete: Notify::new() }))
    }

    pub(crate) fn watcher(&self) -> Watcher {
        Watcher { arrivals: self.clone(), seen: 0 }
    }

    /// The next write begins.
    pub(crate) fn written(&self) {
        lock(&self.0.begun).push(Instant::now());
    }

    /// Waits until everybody has seen everything.
    pub(crate) async fn all(&self) -> Result<Load> {
        let complete = tokio::time::timeout(RECOVERY, self.0.complete.notified()).await;
        ensure!(complete.is_ok(), "only {} of {} events have arrived", lock(&self.0.latencies).len(), self.0.expected);
        let latencies = std::mem::take(&mut *lock(&self.0.latencies));
        let took = lock(&self.0.begun).first().map_or(Duration::ZERO, Instant::elapsed);
        Ok(Load { per_second: latencies.len() as f64 / took.as_secs_f64(), latencies, ..Load::default() })
    }
}

// === impl Watcher ===

impl Watcher {
    pub(crate) fn saw(&mut self, events: usize) {
        let (now, inner) = (Instant::now(), &self.arrivals.0);
        let begun = lock(&inner.begun)[self.seen..self.seen + events].to_vec();
        self.seen += events;
        let mut latencies = lock(&inner.latencies);
        latencies.extend(begun.into_iter().map(|begin| now - begin));
        if latencies.len() == inner.expected {
            inner.complete.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that each do one thing after the other, with what `start` gave them.
pub(crate) async fn gather<S, F>(
    clients: usize,
    duration: Duration,
    start: impl Fn(usize) -> S,
    once: impl Fn(S) -> F + Clone + Send + 'static,
) -> Result<Load>
where
    S: Send + 'static,
    F: Future<Output = Result<S>> + Send,
{
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|index| {
            let (mut own, once) = (start(index), once.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < duration {
                    let sent = Instant::now();
                    own = once(own).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, anyhow::Error>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(Load { per_second: latencies.len() as f64 / begin.elapsed().as_secs_f64(), latencies, ..Load::default() })
}
