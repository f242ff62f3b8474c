//! A clock that leaps, for one process alone. Nodes of a laboratory share a kernel, and time namespaces know nothing of
//! the wall clock; so the code by which a process reads it, which the kernel lends it (vdso(7)), is written over: asks
//! the kernel, and adds the leap. Monotonic clocks go on as they went.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How long it may take until no thread is in the midst of reading the clock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long threads may take to stand still.
const STOP_TIMEOUT: Duration = Duration::from_millis(100);

/// A leap, and what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leap {
    pid: i32,
    /// When the process began, in ticks since boot: who has its number later is another.
    began: u64,
    patches: Vec<Patch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Patch {
    address: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What is at a patch's address, and is to be.
type Change = fn(&Patch) -> (&Vec<u8>, &Vec<u8>);

// === impl Leap ===

impl Leap {
    /// What is to be done to a process; nothing is done yet.
    pub(crate) fn plan(pid: i32, seconds: i64) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "clocks leap on x86-64 only");
        let (start, image) = lent(pid)?;
        let mut patches = Vec::new();
        for (name, after) in [
            ("__vdso_clock_gettime", clock_gettime(seconds)),
            ("__vdso_gettimeofday", gettimeofday(seconds)),
            ("__vdso_time", time(seconds)),
        ] {
            let (offset, size) = symbol(&image, name).with_context(|| format!("the kernel lends no {name}"))?;
            ensure!(size >= after.len(), "the kernel's {name} has no room for another");
            let before = image.get(offset..offset + after.len()).context("a function outside of its image")?.to_vec();
            patches.push(Patch { address: start + offset as u64, before, after });
        }
        Ok(Self { pid, began: began(pid).context("the process has ended")?, patches })
    }

    pub(crate) fn begin(&self) -> Result<()> {
        self.write(|patch| (&patch.before, &patch.after))
    }

    /// A process that has ended has taken its clock along.
    pub(crate) fn end(&self) -> Result<()> {
        if began(self.pid) == Some(self.began) { self.write(|patch| (&patch.after, &patch.before)) } else { Ok(()) }
    }

    /// Stops the process while no thread of it is where something is written.
    fn write(&self, change: Change) -> Result<()> {
        let pid = Pid::from_raw(self.pid);
        let deadline = Instant::now() + PATIENCE;
        loop {
            kill(pid, Signal::SIGSTOP).context("cannot stop the process")?;
            let is_quiet = self.is_quiet(Instant::now() + STOP_TIMEOUT);
            let written = if is_quiet { self.write_stopped(change) } else { Ok(()) };
            kill(pid, Signal::SIGCONT).context("cannot let the process go on")?;
            if is_quiet {
                return written;
            }
            ensure!(Instant::now() < deadline, "the process reads its clock all the time");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn write_stopped(&self, change: Change) -> Result<()> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{}/mem", self.pid)).context("cannot open its memory")?;
        for patch in &self.patches {
            let (from, to) = change(patch);
            let mut found = vec![0; from.len()];
            // A process that has executed another program since has other code elsewhere.
            if memory.read_exact_at(&mut found, patch.address).is_ok() && found == *from {
                memory.write_all_at(to, patch.address).context("cannot write what the kernel lends")?;
            }
        }
        Ok(())
    }

    /// Whether every thread comes to stand still by then, and elsewhere.
    fn is_quiet(&self, deadline: Instant) -> bool {
        let inside = |at: u64| self.patches.iter().any(|patch| (patch.address..patch.address + patch.after.len() as u64).contains(&at));
        loop {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
            let places: Option<Vec<u64>> = threads.map(|thread| place(&thread.path())).collect();
            match places {
                Some(places) => return !places.into_iter().any(inside),
                None if Instant::now() > deadline => return false,
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}

/// Where a thread stands still; one that runs says so, and no place.
fn place(thread: &Path) -> Option<u64> {
    let state = std::fs::read_to_string(thread.join("syscall")).ok()?;
    u64::from_str_radix(state.split_whitespace().last()?.strip_prefix("0x")?, 16).ok()
}

/// When a process began.
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// Where the kernel's code is in a process, and the code.
fn lent(pid: i32) -> Result<(u64, Vec<u8>)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("the process does not run")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("the kernel lends no code here")?;
    let range = line.split(' ').next().and_then(|range| range.split_once('-')).context("a map without a range")?;
    let (start, end) = (u64::from_str_radix(range.0, 16)?, u64::from_str_radix(range.1, 16)?);
    let mut image = vec![0; usize::try_from(end - start)?];
    let memory = File::open(format!("/proc/{pid}/mem")).context("cannot open the process' memory")?;
    memory.read_exact_at(&mut image, start).context("cannot read what the kernel lends")?;
    Ok((start, image))
}

/// Offset and size of a function in an ELF image of 64 bits, by its dynamic symbols (elf(5)).
fn symbol(image: &[u8], name: &str) -> Option<(usize, usize)> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(image.get(at..at + bytes)?);
        usize::try_from(u64::from_le_bytes(whole)).ok()
    };
    const SECTION_BYTES: usize = 64;
    const SYMBOL_BYTES: usize = 24;
    const DYNAMIC_SYMBOLS: usize = 11;
    let (sections, count) = (number(40, 8)?, number(60, 2)?);
    let section = |index: usize| sections + index * SECTION_BYTES;
    let symbols = (0..count).map(section).find(|at| number(at + 4, 4) == Some(DYNAMIC_SYMBOLS))?;
    let (first, size, strings) = (number(symbols + 24, 8)?, number(symbols + 32, 8)?, number(section(number(symbols + 40, 4)?) + 24, 8)?);
    let named = |at: &usize| {
        let start = strings + number(*at, 4)?;
        Some(image.get(start..start + name.len())? == name.as_bytes() && image.get(start + name.len()) == Some(&0))
    };
    let at = (first..first + size).step_by(SYMBOL_BYTES).find(|at| named(at) == Some(true))?;
    Some((number(at + 8, 8)?, number(at + 16, 8)?))
}

/// ```text
///   mov eax, 228; syscall; test eax, eax; jne out       # clock_gettime(edi: which, rsi: time)
///   test edi, edi; je add; cmp edi, 5; jne out          # the wall clock, exact or coarse
///   add: mov rcx, seconds; add [rsi], rcx; out: ret
/// ```
fn clock_gettime(seconds: i64) -> Vec<u8> {
    let ask = [0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05, 0x85, 0xc0, 0x75, 0x16, 0x85, 0xff, 0x74, 0x05, 0x83, 0xff, 0x05, 0x75, 0x0d, 0x48, 0xb9];
    [&ask[..], &seconds.to_le_bytes(), &[0x48, 0x01, 0x0e, 0xc3]].concat()
}

/// ```text
///   mov eax, 96; syscall; test rdi, rdi; je out         # gettimeofday(rdi: time, rsi: zone)
///   mov rcx, seconds; add [rdi], rcx; out: ret
/// ```
fn gettimeofday(seconds: i64) -> Vec<u8> {
    let ask = [0xb8, 0x60, 0, 0, 0, 0x0f, 0x05, 0x48, 0x85, 0xff, 0x74, 0x0d, 0x48, 0xb9];
    [&ask[..], &seconds.to_le_bytes(), &[0x48, 0x01, 0x0f, 0xc3]].concat()
}

/// ```text
///   push rdi; xor edi, edi; mov eax, 201; syscall; pop rdi; mov rcx, seconds; add rax, rcx
///   test rdi, rdi; je out; mov [rdi], rax; out: ret     # time(rdi: where else to put it)
/// ```
fn time(seconds: i64) -> Vec<u8> {
    let ask = [0x57, 0x31, 0xff, 0xb8, 0xc9, 0, 0, 0, 0x0f, 0x05, 0x5f, 0x48, 0xb9];
    let add = [0x48, 0x01, 0xc8, 0x48, 0x85, 0xff, 0x74, 0x03, 0x48, 0x89, 0x07, 0xc3];
    [&ask[..], &seconds.to_le_bytes(), &add].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_the_kernel_lends_has_room_for_what_replaces_it() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let leap = Leap::plan(pid, -300).expect("this process reads its clock without asking the kernel");
        assert_eq!(leap.patches.len(), 3);
        for patch in &leap.patches {
            assert_eq!((patch.before.len(), patch.after.last()), (patch.after.len(), Some(&0xc3)), "it returns");
            assert!(patch.after.windows(8).any(|bytes| bytes == (-300_i64).to_le_bytes()));
        }
        assert_eq!(symbol(b"not an image", "__vdso_time"), None);
    }
}
