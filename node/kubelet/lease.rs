//! The node's lease: for so long its fenced Pods run without another word from the leader. Their monitors read it.
//!
//! The file holds the boot that it is of, its term, and until when it holds, in nanoseconds of `CLOCK_BOOTTIME`, which goes
//! on while the machine sleeps: `BOOT TERM UNTIL`. A lease that ran out comes back under another term, so that what was to
//! begin under the old one does not begin under the new one.
//!
//! It lies in /run, so that neither a full disk nor a reboot says anything of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use skein_object::fence::LEASE_MS;

const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// What is written in between says no more than this that is new.
const STEP: Duration = Duration::from_millis(500);

const DIRECTORY: &str = "/run/skein";

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A cheap clone.
#[derive(Clone, Debug)]
pub struct Lease {
    path: Arc<PathBuf>,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    boot: String,
    /// When the lease began, which no two do at once.
    term: u64,
    until: Duration,
}

// === impl Lease ===

impl Lease {
    /// That of the node of this name; it holds from the first time that it is prolonged.
    pub fn of(node: &str) -> Self {
        let boot = std::fs::read_to_string(BOOT).unwrap_or_default().trim().to_string();
        let held = Held { boot, ..Held::default() };
        Self { path: Arc::new(PathBuf::from(DIRECTORY).join(format!("lease-{node}"))), held: Arc::new(Mutex::new(held)) }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A leader had a majority behind it at this time since the boot, and had heard of the node after that.
    pub fn prolong(&self, since: Duration) -> std::io::Result<()> {
        let mut held = self.lock();
        let (now, until) = (now(), since + LEASE);
        if until < held.until + STEP || until <= now {
            return Ok(());
        }
        if held.until <= now {
            held.term = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        }
        std::fs::create_dir_all(DIRECTORY)?;
        let new = self.path.with_extension("new");
        std::fs::write(&new, format!("{} {} {}\n", held.boot, held.term, until.as_nanos()))?;
        std::fs::rename(&new, self.path.as_path())?;
        held.until = until;
        Ok(())
    }

    /// Under which a fenced container may begin, if the lease holds.
    pub(crate) fn term(&self) -> Option<u64> {
        let held = self.lock();
        (held.until > now()).then_some(held.term)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since the machine was started, its sleep included.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ran_out_comes_back_under_another_term() {
        let lease = Lease::of(&format!("test-{}", std::process::id()));
        assert_eq!(lease.term(), None);
        lease.prolong(now()).expect("it can be written");
        let first = lease.term().expect("it holds");
        let written = || std::fs::read_to_string(lease.path()).expect("it is there");
        let before = written();
        lease.prolong(now()).expect("nothing is written");
        assert_eq!(written(), before);
        lease.prolong(now() + STEP).expect("it can be written");
        assert_ne!(written(), before);
        assert_eq!(lease.term(), Some(first));
        lease.lock().until = now();
        assert_eq!(lease.term(), None);
        lease.prolong(Duration::ZERO).expect("what has ended is not prolonged");
        assert_eq!(lease.term(), None);
        lease.prolong(now()).expect("it can be written");
        assert!(lease.term().is_some_and(|term| term != first));
        std::fs::remove_file(lease.path()).expect("it goes");
    }
}
