//! Faults of the machine that this process runs on: what `skein chaos fault` does, in a process of its own.
//!
//! ```text
//!   order ─▶ record on disk ─▶ begin … wait … undo ─▶ record gone
//! ```
//!
//! What undoing needs is on disk before anything is done. So whoever finds a record can undo it, and does: this process
//! when the time is over or the record is taken away, the agent when this process dies or when it itself starts anew.
//! The fault's end depends on nobody who could be cut off, paused or dead.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use skein_lab::Course;

use crate::experiment::Kind;

/// The conntrack mark of the connections of agents: an observer is not cut off by what he observes.
pub const MARK: u32 = 0x736b;

/// The daemon writes its pid there, in its data directory.
const PID_FILE: &str = "daemon.pid";

const TABLE: &str = "inet skein-chaos";

/// How often it is seen that a record has been taken away.
const TICK: Duration = Duration::from_millis(50);

const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// A fault as a node is told of it: the spec of a `ChaosFault`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) node: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) duration_ms: u64,
    #[serde(default)]
    pub(crate) delay_ms: u64,
    #[serde(default)]
    pub(crate) lost_permille: u32,
    #[serde(default)]
    pub(crate) writes_per_second: u64,
    #[serde(default)]
    pub(crate) time_offset_seconds: i64,
    /// Addresses and ranges of those from whom the node is cut off, or far away.
    #[serde(default)]
    pub(crate) apart_from: Vec<String>,
}

/// What is on disk while a fault lasts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    order: Order,
    /// Where the daemon keeps its data.
    data: PathBuf,
    daemon: Option<Daemon>,
    /// The links that were made long.
    devices: Vec<String>,
    /// What its disk or its clock suffers from.
    #[serde(default)]
    course: Option<Course>,
}

/// A daemon, as it was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Daemon {
    pid: i32,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    /// The file that its standard output and error are, if they are one.
    output: Option<PathBuf>,
}

/// Writes down that a fault is to be made.
pub(crate) fn write_down(path: &Path, data: &Path, order: &Order) -> Result<()> {
    save(path, &Record { order: order.clone(), data: data.into(), daemon: None, devices: Vec::new(), course: None })
}

/// Makes the fault of a record and ends it; what has gone wrong is said, and then nothing is left of it.
pub fn endure(path: &Path) -> Result<()> {
    let mut record = load(path)?;
    let until = Instant::now() + Duration::from_millis(record.order.duration_ms);
    let begun = begin(path, &mut record);
    while begun.is_ok() && path.exists() && Instant::now() < until {
        std::thread::sleep(TICK);
    }
    let undone = undo(&record);
    let _ = std::fs::remove_file(path);
    begun.and(undone)
}

/// Undoes the fault of a record that somebody else has left.
pub(crate) fn clear(path: &Path) -> Result<()> {
    // One that cannot be read was not written to its end, so nothing has been done.
    let undone = load(path).map_or(Ok(()), |record| undo(&record));
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    undone
}

fn begin(path: &Path, record: &mut Record) -> Result<()> {
    let order = &record.order;
    match order.kind {
        Kind::KillDaemon | Kind::PauseDaemon => {
            let daemon = Daemon::of(&record.data)?;
            let pid = daemon.pid;
            let signal = if order.kind == Kind::KillDaemon { Signal::SIGKILL } else { Signal::SIGSTOP };
            record.daemon = Some(daemon);
            save(path, record)?;
            kill(Pid::from_raw(pid), signal).context("cannot signal the daemon")?;
            if signal == Signal::SIGKILL { wait_for_death(pid) } else { Ok(()) }
        }
        Kind::Partition | Kind::Deafen | Kind::Links => {
            if order.delay_ms > 0 {
                record.devices = devices(&order.apart_from)?;
                save(path, record)?;
            }
            let order = &record.order;
            for device in &record.devices {
                let (delay, jitter) = (format!("{}ms", order.delay_ms), format!("{}ms", order.delay_ms / 10));
                run("tc", &["qdisc", "add", "dev", device, "root", "netem", "delay", &delay, &jitter])
                    .context("long links need the kernel's netem")?;
            }
            match table(order) {
                Some(table) => feed("nft", &["-f", "-"], &table),
                None => Ok(()),
            }
        }
        Kind::SlowDisk | Kind::FillDisk | Kind::ShiftClock => {
            let pid = running(&record.data).context("no daemon runs here")?;
            let ailment = order.kind.ailment(order.writes_per_second, order.time_offset_seconds);
            let course = Course::plan(ailment.context("an ailment")?, pid, &record.data)?;
            record.course = Some(course.clone());
            save(path, record)?;
            course.begin()
        }
        Kind::KillMachine | Kind::PauseMachine | Kind::KillPod => {
            bail!("an agent makes faults of its daemon and its network; machines die in the laboratory (skein chaos run)")
        }
    }
}

/// May be called again, and for what has only half begun.
fn undo(record: &Record) -> Result<()> {
    match (record.order.kind, &record.daemon) {
        (Kind::KillDaemon, Some(daemon)) => daemon.start_again(&record.data),
        (Kind::PauseDaemon, Some(daemon)) if is_daemon(daemon.pid) => {
            kill(Pid::from_raw(daemon.pid), Signal::SIGCONT).context("cannot let the daemon go on")
        }
        (Kind::Partition | Kind::Deafen | Kind::Links, _) => {
            for device in &record.devices {
                let _ = run("tc", &["qdisc", "del", "dev", device, "root"]);
            }
            feed("nft", &["-f", "-"], &no_table())
        }
        (Kind::SlowDisk | Kind::FillDisk | Kind::ShiftClock, _) => record.course.as_ref().map_or(Ok(()), Course::end),
        _ => Ok(()),
    }
}

/// The rules that cut a node off, or lose packets. Pure.
fn table(order: &Order) -> Option<String> {
    let lose = match order.kind {
        Kind::Links if order.lost_permille == 0 => return None,
        Kind::Links => format!("numgen random mod 1000 < {} ", order.lost_permille),
        _ => String::new(),
    };
    let rules = |direction: &str| {
        let of_family = |family: &str, is_of: fn(&str) -> bool| {
            let those: Vec<&str> = order.apart_from.iter().map(String::as_str).filter(|address| is_of(address)).collect();
            if those.is_empty() { String::new() } else { format!("    {family} {direction} {{ {} }} {lose}drop\n", those.join(", ")) }
        };
        format!("{}{}", of_family("ip", |a| !a.contains(':')), of_family("ip6", |a| a.contains(':')))
    };
    // Behind conntrack, so that answers to an observer are known as such, and before everything else.
    let chain = |name: &str, hook: &str, first: String, rules: String| {
        format!("  chain {name} {{\n    type filter hook {hook} priority -190;\n{first}{rules}  }}\n")
    };
    let to_observer = format!("    ct mark {MARK:#x} accept\n");
    let of_observer = format!("    meta mark {MARK:#x} ct mark set {MARK:#x} accept\n");
    let mut chains = chain("hear", "prerouting", to_observer, rules("saddr"));
    if order.kind != Kind::Deafen {
        chains += &chain("speak", "output", of_observer, rules("daddr"));
        chains += &chain("pass", "forward", String::new(), rules("daddr"));
    }
    Some(format!("{}table {TABLE} {{\n{chains}}}\n", no_table()))
}

/// Adding it first makes it no error that it is not there.
fn no_table() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// The links by which these are reached.
fn devices(addresses: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for address in addresses.iter().filter(|address| !address.contains('/')) {
        let output = Command::new("ip").args(["-o", "route", "get", address]).output().context("cannot run ip")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let device = text.split_whitespace().skip_while(|word| *word != "dev").nth(1);
        let device = device.with_context(|| format!("no way leads to {address}"))?.to_string();
        if !found.contains(&device) {
            found.push(device);
        }
    }
    Ok(found)
}

// === impl Daemon ===

impl Daemon {
    /// The one that runs, and how it was started.
    fn of(data: &Path) -> Result<Self> {
        let pid = running(data).context("no daemon runs here")?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let environment = words(&process.join("environ")).context("cannot read the daemon's environment")?;
        let variable = |word: &String| word.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()));
        let output = std::fs::read_link(process.join("fd/1")).ok().filter(|path| path.is_file());
        Ok(Self {
            pid,
            arguments: arguments(pid),
            environment: environment.iter().filter_map(variable).collect(),
            directory: std::fs::read_link(process.join("cwd")).context("cannot read the daemon's directory")?,
            output,
        })
    }

    /// Starts it as it was started, where nobody else has done so: under systemd, it has.
    fn start_again(&self, data: &Path) -> Result<()> {
        if running(data).is_some() {
            return Ok(());
        }
        let (program, arguments) = self.arguments.split_first().context("the daemon had no name")?;
        let output = || -> Result<Stdio> {
            match &self.output {
                Some(path) => Ok(File::options().append(true).open(path).context("cannot open the daemon's log")?.into()),
                None => Ok(Stdio::null()),
            }
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(output()?).stderr(output()?).process_group(0);
        command.spawn().with_context(|| format!("cannot start {program} again"))?;
        Ok(())
    }
}

/// The daemon whose data this is, while it runs.
fn running(data: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(data.join(PID_FILE)).ok()?.trim().parse().ok()?;
    is_daemon(pid).then_some(pid)
}

/// A pid may have been given to somebody else since.
fn is_daemon(pid: i32) -> bool {
    arguments(pid).get(1).is_some_and(|verb| verb == "up")
}

/// Those of a process that is dead but not buried are gone.
fn arguments(pid: i32) -> Vec<String> {
    words(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default()
}

/// What the kernel ends with a zero each.
fn words(file: &Path) -> std::io::Result<Vec<String>> {
    let bytes = std::fs::read(file)?;
    Ok(bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).filter(|word| !word.is_empty()).collect())
}

fn wait_for_death(pid: i32) -> Result<()> {
    let begin = Instant::now();
    while is_daemon(pid) {
        ensure!(begin.elapsed() < DEATH_TIMEOUT, "the daemon does not die");
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn load(path: &Path) -> Result<Record> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no fault", path.display()))
}

/// Whole or not at all, and for its owner only: a daemon's environment may hold what nobody else should read.
fn save(path: &Path, record: &Record) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    feed(program, arguments, "")
}

/// Runs a program that reads this and must succeed.
fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read everything says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_heard_whatever_is_cut() {
        let order = |kind, lost_permille| Order {
            node: "a".into(),
            kind,
            duration_ms: 1,
            delay_ms: 0,
            lost_permille,
            writes_per_second: 0,
            time_offset_seconds: 0,
            apart_from: vec!["192.0.2.1".into(), "10.1.0.0/24".into(), "2001:db8::1".into()],
        };
        let check = |kind, lost, lines: &[&str], none: &str| {
            let table = table(&order(kind, lost)).expect("there are rules");
            for line in lines {
                assert!(table.contains(line), "{line}: {table}");
            }
            assert!(!table.contains(none), "{none}: {table}");
        };
        let heard = "ip saddr { 192.0.2.1, 10.1.0.0/24 } drop";
        check(Kind::Partition, 0, &["ct mark 0x736b accept", heard, "ip6 daddr { 2001:db8::1 } drop", "hook forward"], "numgen");
        check(Kind::Deafen, 0, &[heard], "daddr");
        check(Kind::Links, 20, &["ip daddr { 192.0.2.1, 10.1.0.0/24 } numgen random mod 1000 < 20 drop"], "} drop");
        assert_eq!(table(&order(Kind::Links, 0)), None);
    }

    #[test]
    fn a_record_that_is_not_whole_is_cleared_away() {
        let path = std::env::temp_dir().join(format!("skein-fault-{}.json", std::process::id()));
        std::fs::write(&path, "{").expect("it can be written");
        clear(&path).expect("nothing was done");
        assert!(!path.exists());
    }
}
