//! The node's lease, as its kubelet writes it into a file: `BOOT TERM UNTIL`, the last in nanoseconds of `CLOCK_BOOTTIME`.
//! A Pod that is bound to it ends when it does.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::Error;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

pub(crate) struct Lease {
    path: PathBuf,
    boot: String,
    timer: TimerFd,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    term: u64,
    until: Duration,
}

// === impl Lease ===

impl Lease {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let what = "cannot follow the node's lease";
        let boot = std::fs::read_to_string(BOOT).map_err(Error::system(what))?.trim().to_string();
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK);
        Ok(Self { path: path.into(), boot, timer: timer.map_err(Error::system(what))? })
    }

    /// Whether it holds, under this term; from then on the end of the lease is waited for.
    pub(crate) fn begin(&self, term: u64) -> Result<(), Error> {
        let said = self.read().filter(|said| said.term == term && said.until > now());
        let said = said.ok_or_else(|| Error::Child("the node's lease has run out: no leader with a majority has heard of it".into()))?;
        self.wait(said.until)
    }

    /// After its end has come: whether it has been prolonged meanwhile. If so, that end is waited for.
    pub(crate) fn holds(&self) -> bool {
        let _ = self.timer.wait();
        let said = self.read().filter(|said| said.until > now());
        said.is_some_and(|said| self.wait(said.until).is_ok())
    }

    fn read(&self) -> Option<Said> {
        parse(&std::fs::read_to_string(&self.path).ok()?, &self.boot)
    }

    fn wait(&self, until: Duration) -> Result<(), Error> {
        let end = Expiration::OneShot(until.into());
        self.timer.set(end, TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(Error::system("cannot wait for the end of the node's lease"))
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

fn parse(text: &str, boot: &str) -> Option<Said> {
    let mut words = text.split_whitespace();
    if words.next()? != boot {
        return None;
    }
    Some(Said { term: words.next()?.parse().ok()?, until: Duration::from_nanos(words.next()?.parse().ok()?) })
}

fn now() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_of_this_boot_and_whole() {
        let check = |text: &str, expected: Option<Said>| assert_eq!(parse(text, "b"), expected, "{text:?}");
        check("b 7 3000000000\n", Some(Said { term: 7, until: Duration::from_secs(3) }));
        check("a 7 3000000000\n", None);
        check("b 7", None);
        check("", None);
    }
}
