//! What tasks of the store run on: tokio, and where a task belongs to a [`Host`], whatever that host allows.
//!
//! In production there is no host: there is one node in a process. In simulation each node is one: it can be paused or
//! killed between any two steps of its tasks, its randomness comes from the seed, and its clock is its own.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::clock::{Clock, Moment};

/// A process, as far as its tasks can tell.
pub trait Host: Send + Sync + 'static {
    /// Asked before each step of a task. A host that is paused or dead keeps its tasks waiting.
    fn poll_runs(&self, context: &mut Context<'_>) -> Poll<()>;

    fn random(&self) -> u64;

    fn clock(&self) -> Clock;

    /// The wall clock.
    fn now(&self) -> Timestamp;
}

tokio::task_local! {
    static HOST: Arc<dyn Host>;
}

thread_local! {
    static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_rng(&mut rand::rng()));
}

/// A random number, from the task's host where it has one.
pub fn random() -> u64 {
    HOST.try_with(|host| host.random()).unwrap_or_else(|_| RANDOM.with_borrow_mut(Rng::next_u64))
}

/// The time of day, on the wall of the task's host where it has one.
pub fn now() -> Timestamp {
    HOST.try_with(|host| host.now()).unwrap_or_else(|_| Timestamp::now())
}

/// The clock of this process.
static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::default);

/// Raft's clock, that of the task's host where it has one.
pub fn clock() -> Clock {
    HOST.try_with(|host| host.clock()).unwrap_or_else(|_| CLOCK.clone())
}

/// Starts a task on the host of the task that calls.
pub fn spawn<T>(future: T) -> tokio::task::JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    match HOST.try_with(Arc::clone) {
        Ok(host) => tokio::spawn(hosted(host, future)),
        Err(_) => tokio::spawn(future),
    }
}

/// Runs a future, and the tasks that it spawns, on a host.
pub fn hosted<T: Future>(host: Arc<dyn Host>, future: T) -> impl Future<Output = T::Output> {
    HOST.scope(Arc::clone(&host), Hosted { host, future: Box::pin(future) })
}

struct Hosted<T> {
    host: Arc<dyn Host>,
    future: Pin<Box<T>>,
}

impl<T: Future> Future for Hosted<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        match self.host.poll_runs(context) {
            Poll::Ready(()) => self.future.as_mut().poll(context),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// openraft's view of the above.
pub struct Runtime(TokioRuntime);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = Moment;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(clock().real(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(clock().at(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(clock().real(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(clock().at(deadline), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(random())
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
