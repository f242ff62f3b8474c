//! `skein chaos`: experiments with faults on the laboratory's nodes; and a node's agent, for those that the API orders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use skein_lab::{Lab, Layout};
use skein_nemesis::{Api, Entry, Experiment, MARK};

use crate::client::Access;

/// An experiment to begin with.
const EXAMPLE: &str = r#"An experiment, in YAML or JSON:

  apiVersion: chaos.skein.dev/v1alpha1
  kind: ChaosExperiment
  metadata: {name: leader-dies}
  spec:
    seed: 7                      # one seed is one plan
    duration: 1m                 # for how long faults come
    target: {role: leader}       # also: node, region, zone, pod; role: leader, voter, standby, replica
    faults:                      # killMachine, killDaemon, pauseMachine, pauseDaemon, killPod, partition, deafen, links,
                                 # slowDisk, fillDisk, shiftClock
    - {type: killDaemon, every: 10s, duration: 2s}
    - {type: links, every: 20s, duration: 5s, delay: 100ms, lostPermille: 10}
    - {type: slowDisk, every: 20s, duration: 5s, writesPerSecond: 20}
    - {type: shiftClock, every: 20s, duration: 5s, timeOffset: -5m}
    - {type: partition, every: 20s, duration: 5s, from: {zone: b}}      # only links to zone b
    steadyState:                 # what must hold
    - {type: linearizability, clients: 4, keys: 4}
    - {type: available, within: 5s}
    - {type: podsRunOn, namespace: default, selector: app=web}
    - {type: api, path: /api/v1/namespaces/default/services/web/proxy/, failures: 3}
    guard: majority              # leave the voters their majority; or none
    abortAfter: 30s              # break off when no write succeeds for so long

On nodes that are started with `skein up --chaos` the same is a resource of the API, for faults of daemons and networks:
kubectl apply -f FILE, and kubectl get chaosexperiments. To delete it is to break it off.

Exit codes: 0 all of it held, 1 it did not, or the experiment could not be run."#;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run an experiment on the laboratory (`skein lab up`) and print its verdict
    #[command(after_long_help = EXAMPLE)]
    Run(Arguments),
    /// Undo whatever an experiment that was killed has left
    Heal,
    /// Make the faults of this node that the API orders; `skein up --chaos` starts it
    #[command(hide = true)]
    Agent {
        #[arg(long)]
        node: String,
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Make one fault, and end it
    #[command(hide = true)]
    Fault { record: PathBuf },
}

#[derive(Args)]
pub(crate) struct Arguments {
    /// The experiment
    file: PathBuf,
    /// Another seed than the file's: another plan
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The nodes of a kubeconfig, one context each.
struct Contexts(Access);

impl Contexts {
    fn in_time<T>(patience: Duration, asked: impl Future<Output = Result<T>>) -> Result<T, String> {
        let answered = async { tokio::time::timeout(patience, asked).await.context("no answer in time")? };
        crate::block_on(answered).map_err(|why| format!("{why:#}"))
    }
}

impl Api for Contexts {
    fn nodes(&self) -> Vec<String> {
        self.0.contexts().unwrap_or_default()
    }

    fn ask(&self, node: &str, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> Result<(u16, Vec<u8>), String> {
        Self::in_time(patience, self.0.exchange(node, method, path, body))
    }

    fn first_line(&self, node: &str, path: &str, patience: Duration) -> Result<(), String> {
        let begun = async { Ok(tokio::time::timeout(patience, self.0.first_line(node, path)).await.unwrap_or(Ok(()))) };
        crate::block_on(begun).and_then(|begun| begun).map_err(|why| format!("{why:#}"))
    }
}

/// Returns the exit code.
pub(crate) fn run(verb: Verb) -> Result<i32> {
    let arguments = match verb {
        Verb::Agent { node, data_dir } => return serve(node, data_dir).map(|()| 0),
        Verb::Fault { record } => return skein_nemesis::endure(&record).map(|()| 0),
        Verb::Heal => return skein_nemesis::heal(&laboratory()?).map(|()| 0),
        Verb::Run(arguments) => arguments,
    };
    let lab = laboratory()?;
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {}", arguments.file.display()))?;
    let experiment = Experiment::parse(&text).with_context(|| arguments.file.display().to_string())?;
    let experiment = match arguments.seed {
        Some(seed) => experiment.with_seed(seed),
        None => experiment,
    };
    let api = Arc::new(Contexts(Access::of(lab.kubeconfig(None)?)));
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(Arc::clone(&stop));
    let tell = |entry: &Entry| eprintln!("{:>5}.{} s  {}", entry.at_ms / 1000, entry.at_ms % 1000 / 100, entry.what);
    let report = skein_nemesis::run(&lab, api, &experiment, &stop, &tell)?;
    let value = serde_json::to_value(&report)?;
    match arguments.output {
        Output::Json => println!("{value:#}"),
        Output::Text => print(&value),
    }
    Ok(i32::from(report.verdict != "Passed"))
}

fn laboratory() -> Result<Lab> {
    Lab::open(Layout::default())
}

/// The agent, with the credentials that the daemon keeps for it.
fn serve(node: String, data: PathBuf) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let api = Contexts(Access::of(data.join(skein_daemon::AGENT_KUBECONFIG)).marked(MARK));
    let command = vec![program.display().to_string(), "chaos".into(), "fault".into()];
    skein_nemesis::serve(skein_nemesis::Options { node, data, command }, Arc::new(api))
}

/// Breaks the experiment off in order: what it did is undone.
fn watch_signals(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        crate::block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.store(true, Ordering::Relaxed);
            Ok(())
        })
    });
}

fn print(report: &Value) {
    let load = &report["load"];
    if load.is_object() {
        println!(
            "{} writes acknowledged, {} requests without an answer, at most {} ms without a write",
            load["acknowledged"], load["unknown"], load["silenceMs"]
        );
    }
    if let Some(healed) = report["healedMs"].as_u64() {
        println!("every node ready {healed} ms after the faults");
    }
    for failure in report["failures"].as_array().into_iter().flatten() {
        println!("FAILED: {}", failure.as_str().unwrap_or_default());
    }
    println!(
        "{}: {} (seed {})",
        report["name"].as_str().unwrap_or_default(),
        report["verdict"].as_str().unwrap_or_default(),
        report["seed"]
    );
}
