//! `make bench`: the numbers, taken on a cluster of three on this machine, printed as a table.
//!
//! Everything goes over HTTPS through real daemons; the disk is synced. Machines are noisy: compare ratios of one run.

mod client;
mod daemons;
mod etcd;
mod load;
mod losses;
mod measure;
mod scheduler;
mod services;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use client::Credentials;
use etcd::{Etcd, Wire};
use load::Load;
use skein_lab::image::{File, Image};
use skein_lab::{Lab, Layout, Plan, Runtime};

const IMAGE: &str = "skein.bench/busybox:1";

/// Measures a three-node cluster on this machine.
#[derive(Parser)]
struct Arguments {
    /// How long each load runs, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pods that are created one after the other
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// How often the leader is killed
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only a part of the table
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Only writes by so many clients, on the laboratory that is up
    #[arg(long, value_name = "CLIENTS")]
    writes: Option<usize>,
}

/// A part of the table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The scheduler and the state, which need no cluster
    Scheduler,
    /// What a daemon takes to which nothing happens
    Idle,
    /// What etcd can do, too: writes, reads and watches
    Store,
    /// Long lists
    Lists,
    /// How soon Pods run, on both runtimes, and what a monitor holds
    Pods,
    /// Connections to Services, and how soon new endpoints are reached
    Services,
    /// How long nothing is written without a leader, and until a lost node's Pod and a new leader's work are back
    Losses,
}

const WATCHERS: usize = 1000;
/// Writes that all of them see, one after the other.
const WRITES: usize = 50;
/// What a new leader has to look at.
const DEPLOYMENTS: usize = 10_000;
/// Pods that one node is given at once.
const BURST: usize = 100;

// === impl Arguments ===

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(clients) = arguments.writes {
        return writes(clients, Duration::from_secs(arguments.seconds));
    }
    if arguments.wants(Part::Scheduler) {
        without_cluster()?;
    }
    if arguments.only == Some(Part::Scheduler) {
        return Ok(());
    }
    let program = std::env::current_exe()?.with_file_name("skein");
    let lab = Lab::open(Layout { program, ..Layout::default() })?;
    lab.down()?;
    let result = run(&lab, &arguments);
    lab.down()?;
    result
}

fn writes(clients: usize, duration: Duration) -> Result<()> {
    let lab = Lab::open(Layout::default())?;
    let credentials = Credentials::read(&lab.kubeconfig(None)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    heading();
    row(
        &format!("ConfigMaps of 1 KiB created, {clients} clients"),
        runtime.block_on(measure::creations(&lab, &credentials, clients, duration))?,
    );
    Ok(())
}

/// The scheduler and the state.
fn without_cluster() -> Result<()> {
    println!("{:<46} {:>12}", "the scheduler alone", "per second");
    scheduler::run(|what, rate| println!("{what:<46} {rate:>12.0}"))?;
    let taken = state::small_objects();
    let state::Taken { json_bytes, memory_bytes, per_second } = taken;
    let each = format!("a million objects of {json_bytes:.0} bytes of JSON");
    println!("{each:<46} {memory_bytes:>12.0} bytes of memory each, {per_second:.0} a second");
    Ok(())
}

fn run(lab: &Lab, arguments: &Arguments) -> Result<()> {
    lab.up(&Plan::new(3))?;
    load_image(lab)?;
    let credentials = Credentials::read(&lab.kubeconfig(None)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("{} cores, {}", std::thread::available_parallelism()?, memory());
    heading();

    if arguments.wants(Part::Idle) {
        let idle = daemons::idle(lab, Duration::from_secs(arguments.seconds))?;
        println!("{:<46} {:.0} MiB, {:.1} % of a core", "idle daemon (mean of three)", idle.mebibytes, idle.percent);
    }
    if arguments.wants(Part::Store) {
        runtime.block_on(beside(lab, &credentials, arguments))?;
    }
    if arguments.wants(Part::Lists) {
        runtime.block_on(lists(lab, &credentials, Duration::from_secs(arguments.seconds)))?;
    }
    if arguments.wants(Part::Pods) {
        runtime.block_on(pods(&credentials, "Skein's runtime", arguments.pods))?;
        let monitor = runtime.block_on(measure::monitor_memory(&credentials, IMAGE, arguments.pods))?;
        println!("{:<46} {monitor:.0} KiB of its own", "a Pod's monitor (mean)");
    }
    if arguments.wants(Part::Services) {
        runtime.block_on(services::run(&credentials, arguments.rounds, Duration::from_secs(arguments.seconds), row))?;
    }
    if arguments.wants(Part::Losses) {
        runtime.block_on(losses(lab, &credentials, arguments.rounds))?;
    }
    if arguments.wants(Part::Pods) {
        runtime.block_on(pods_on_containerd(lab, arguments.pods))?;
    }
    Ok(())
}

async fn lists(lab: &Lab, credentials: &Credentials, duration: Duration) -> Result<()> {
    measure::fill_lists(credentials).await?;
    for (name, accept) in [("JSON", "application/json"), ("protobuf", "application/vnd.kubernetes.protobuf")] {
        row(&format!("{} Pods listed, {name}", measure::LISTED), measure::lists(lab, credentials, accept, duration).await?);
    }
    Ok(())
}

async fn losses(lab: &Lab, credentials: &Credentials, rounds: usize) -> Result<()> {
    times("leader killed -> next write", losses::leader_losses(lab, credentials, rounds).await?);
    times("leader stopped in order -> longest without a write", losses::handovers(lab, credentials, rounds).await?);
    let fewer = rounds.min(5);
    times("node killed -> its Pod Running elsewhere", losses::node_losses(lab, credentials, IMAGE, fewer).await?);
    let reconciled = losses::reconciles(lab, credentials, DEPLOYMENTS, fewer).await?;
    times(&format!("leader killed -> {DEPLOYMENTS} Deployments looked at"), reconciled);
    Ok(())
}

/// How soon Pods run: one after the other, and many at once.
async fn pods(credentials: &Credentials, of: &str, count: usize) -> Result<()> {
    times(&format!("Pod created -> Running, {of}"), measure::pod_starts(credentials, IMAGE, count).await?);
    times(&format!("{BURST} at once on one node, {of}"), measure::pod_burst(credentials, IMAGE, BURST).await?);
    Ok(())
}

async fn pods_on_containerd(lab: &Lab, count: usize) -> Result<()> {
    lab.down()?;
    lab.up(&Plan { runtime: Runtime::Containerd, ..Plan::new(3) })?;
    load_image(lab)?;
    pods(&Credentials::read(&lab.kubeconfig(None)?)?, "containerd and runc", count).await
}

/// What etcd can do, too, and where it is found, the same of it, row by row: machines have slow minutes.
async fn beside(lab: &Lab, credentials: &Credentials, arguments: &Arguments) -> Result<()> {
    let mut others = Vec::new();
    match etcd::program() {
        Some(program) => {
            for wire in [Wire::Tls, Wire::Plain] {
                others.push(Etcd::start(&program, wire).await?);
            }
        }
        None => println!("etcd is not on PATH; name it by ETCD= to measure it beside"),
    }
    let duration = Duration::from_secs(arguments.seconds);
    for clients in [1, 64, 512] {
        row(&format!("1 KiB written, {clients} clients"), measure::creations(lab, credentials, clients, duration).await?);
        for etcd in &others {
            row(etcd.wire.name(), etcd.puts(clients, duration).await?);
        }
    }
    row("1 KiB read, linearizably, 64 clients", measure::reads(lab, credentials, 64, duration).await?);
    for etcd in &others {
        row(etcd.wire.name(), etcd.reads(64, duration).await?);
    }
    row(&format!("a write told to {WATCHERS} watchers"), measure::fan_out(lab, credentials, WATCHERS, WRITES).await?);
    for etcd in &others {
        row(etcd.wire.name(), etcd.fan_out(WATCHERS, WRITES).await?);
    }
    Ok(())
}

fn heading() {
    println!(
        "{:<46} {:>12} {:>10} {:>10} {:>10} {:>12} {:>8} {:>14}",
        "", "per second", "p50 ms", "p99 ms", "max ms", "CPU us each", "syncs", "encoded"
    );
}

fn times(what: &str, latencies: Vec<Duration>) {
    row(what, Load { latencies, ..Load::default() });
}

fn row(what: &str, load: Load) {
    let Load { per_second, mut latencies, cpu_micros, syncs, encoded, encoding_percent } = load;
    latencies.sort();
    let at = |share: f64| {
        let index = (latencies.len().saturating_sub(1)) as f64 * share;
        latencies.get(index.round() as usize).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    let shown = |number: f64| if number > 0.0 { format!("{number:.0}") } else { "-".into() };
    let (rate, cpu) = (shown(per_second), shown(cpu_micros));
    let part = |number: f64| if number > 0.0 { format!("{number:.2}") } else { "-".into() };
    let syncs = part(syncs);
    let encoded = if encoded > 0.0 { format!("{encoded:.2} ({encoding_percent:.0} %)") } else { "-".into() };
    println!("{what:<46} {rate:>12} {:>10.1} {:>10.1} {:>10.1} {cpu:>12} {syncs:>8} {encoded:>14}", at(0.5), at(0.99), at(1.0));
}

fn load_image(lab: &Lab) -> Result<()> {
    let archive: PathBuf = std::env::temp_dir().join("skein-bench.tar");
    let files = [File { source: "/bin/busybox".into(), path: "bin/busybox".into() }];
    let image = Image { name: IMAGE, entrypoint: &["/bin/busybox", "sleep", "100000"], files: &files, links: &[] };
    skein_lab::image::write(&archive, &image)?;
    lab.load(&archive)?;
    Ok(std::fs::remove_file(archive)?)
}

fn memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info.lines().next().unwrap_or_default().to_string()
}
