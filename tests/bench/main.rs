//! `make bench`: the numbers, taken on a cluster of three on this machine, printed as a table.
//!
//! Everything goes over HTTPS through real daemons; the disk is synced. Machines are noisy: compare ratios of one run.

mod client;
mod measure;
mod scheduler;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
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
    /// Only what needs no cluster: the scheduler
    #[arg(long)]
    scheduler: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("{:<46} {:>12}", "the scheduler alone", "per second");
    scheduler::run(|what, rate| println!("{what:<46} {rate:>12.0}"))?;
    if arguments.scheduler {
        return Ok(());
    }
    let program = std::env::current_exe()?.with_file_name("skein");
    let lab = Lab::open(Layout { program, ..Layout::default() })?;
    lab.down()?;
    let result = run(&lab, &arguments);
    lab.down()?;
    result
}

fn run(lab: &Lab, arguments: &Arguments) -> Result<()> {
    lab.up(&Plan::new(3))?;
    load_image(lab)?;
    let credentials = client::Credentials::read(&lab.kubeconfig(None)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("{} cores, {}", std::thread::available_parallelism()?, memory());
    println!("{:<46} {:>12} {:>10} {:>10} {:>10}", "", "per second", "p50 ms", "p99 ms", "max ms");

    let idle = measure::idle(lab, Duration::from_secs(arguments.seconds))?;
    for clients in [1, 64, 512] {
        let duration = Duration::from_secs(arguments.seconds);
        let load = runtime.block_on(measure::creations(&credentials, clients, duration))?;
        row(&format!("ConfigMaps of 1 KiB created, {clients} clients"), Some(load.per_second), load.latencies);
    }
    let started = runtime.block_on(measure::pod_starts(&credentials, IMAGE, arguments.pods))?;
    row("Pod created -> Running, Skein's runtime", None, started);
    let monitor = runtime.block_on(measure::monitor_memory(&credentials, IMAGE, arguments.pods))?;
    let gaps = runtime.block_on(measure::leader_losses(lab, &credentials, arguments.rounds))?;
    row("leader killed -> next write", None, gaps);
    let replaced = runtime.block_on(measure::node_losses(lab, &credentials, IMAGE, arguments.rounds.min(5)))?;
    row("node killed -> its Pod Running elsewhere", None, replaced);
    println!("{:<46} {:.0} MiB, {:.1} % of a core", "idle daemon (mean of three)", idle.mebibytes, idle.percent);
    println!("{:<46} {monitor:.0} KiB of its own", "a Pod's monitor (mean)");
    lab.down()?;
    lab.up(&Plan { runtime: Runtime::Containerd, ..Plan::new(3) })?;
    load_image(lab)?;
    let credentials = client::Credentials::read(&lab.kubeconfig(None)?)?;
    let started = runtime.block_on(measure::pod_starts(&credentials, IMAGE, arguments.pods))?;
    row("Pod created -> Running, containerd and runc", None, started);
    Ok(())
}

fn row(what: &str, per_second: Option<f64>, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |share: f64| {
        let index = (latencies.len().saturating_sub(1)) as f64 * share;
        latencies.get(index.round() as usize).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    let rate = per_second.map_or_else(|| "-".into(), |r| format!("{r:.0}"));
    println!("{what:<46} {rate:>12} {:>10.1} {:>10.1} {:>10.1}", at(0.5), at(0.99), at(1.0));
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
