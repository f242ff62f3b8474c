//! `skein-sim`: runs seeds, says what broke and how to see it again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use jiff::Timestamp;
use skein_sim::{Options, Report, run};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Runs simulated clusters, one for each seed, and checks every invariant.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Run this one seed and print its faults.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; drawn from the clock where nothing is said.
    #[arg(long)]
    from: Option<u64>,
    /// Nodes of each cluster.
    #[arg(long, default_value_t = Options::default().nodes, value_parser = clap::value_parser!(u64).range(2..=9))]
    nodes: u64,
    /// Virtual seconds with faults.
    #[arg(long, default_value_t = Options::default().seconds, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    #[arg(long, default_value_t = Options::default().clients)]
    clients: u64,
    #[arg(long, default_value_t = Options::default().faults)]
    faults: usize,
    /// Milliseconds of the longest way between two nodes, one way.
    #[arg(long, default_value_t = Options::default().latency_ms, value_parser = clap::value_parser!(u64).range(1..=1000))]
    latency_ms: u64,
    /// Milliseconds that a sync takes.
    #[arg(long, default_value_t = Options::default().sync_ms, value_parser = clap::value_parser!(u64).range(1..=2000))]
    sync_ms: u64,
    /// The last node is a witness.
    #[arg(long)]
    witness: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        let Self { nodes, seconds, clients, faults, latency_ms, sync_ms, witness, .. } = *self;
        Options { nodes, seconds, clients, faults, latency_ms, sync_ms, witness }
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let options = arguments.options();
    if let Some(seed) = arguments.seed {
        let report = run(seed, options);
        report.faults.iter().for_each(|f| println!("at {:?} for {:?}: {:?}", f.at, f.lasts, f.fault));
        println!(
            "{} operations, {} answered, revision {}, {} elections, {} observations, fingerprint {:016x}",
            report.operations, report.acknowledged, report.revision, report.elections, report.events, report.fingerprint
        );
        return verdict(&report, &arguments);
    }
    let from = arguments.from.unwrap_or_else(|| Timestamp::now().as_second().unsigned_abs());
    many(&arguments, from, options)
}

/// Runs seeds on all processors; the first that fails ends it.
fn many(arguments: &Arguments, from: u64, options: Options) -> ExitCode {
    let begin = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (operations, elections) = (AtomicU64::new(0), AtomicU64::new(0));
    let worker = || {
        while failed.load(Ordering::Relaxed) == 0 {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= arguments.seeds {
                return;
            }
            let report = run(from + at, options);
            operations.fetch_add(report.operations, Ordering::Relaxed);
            elections.fetch_add(report.elections, Ordering::Relaxed);
            if verdict(&report, arguments) == ExitCode::FAILURE {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            if (at + 1) % 20 == 0 {
                eprintln!("{} of {} seeds", at + 1, arguments.seeds);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        (0..workers).for_each(|_| drop(scope.spawn(worker)));
    });
    let ran = next.into_inner().min(arguments.seeds);
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    println!(
        "{ran} seeds from {from}: {} operations, {} elections, {:.0} seeds a minute",
        operations.into_inner(),
        elections.into_inner(),
        ran as f64 / minutes
    );
    ExitCode::from(u8::from(failed.into_inner() > 0))
}

fn verdict(report: &Report, arguments: &Arguments) -> ExitCode {
    let Err(violation) = &report.verdict else { return ExitCode::SUCCESS };
    println!("seed {}: {violation}", report.seed);
    let Options { nodes, seconds, clients, faults, latency_ms, sync_ms, witness } = arguments.options();
    print!("  again: skein-sim --seed {} --nodes {nodes} --seconds {seconds} --clients {clients} --faults {faults}", report.seed);
    println!(" --latency-ms {latency_ms} --sync-ms {sync_ms}{}", if witness { " --witness" } else { "" });
    ExitCode::FAILURE
}
