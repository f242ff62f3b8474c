//! `skein chaos`: experiments with faults on the laboratory's nodes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use skein_lab::{Lab, Layout};
use skein_nemesis::{Api, Experiment};

use crate::client::Access;

/// An experiment to begin with.
const EXAMPLE: &str = r#"An experiment, in YAML or JSON:

  apiVersion: chaos.skein.dev/v1alpha1
  kind: ChaosExperiment
  metadata: {name: leader-dies}
  spec:
    seed: 7                      # one seed is one plan
    duration: 1m                 # for how long faults come
    target: {role: leader}       # also: node, region; role: leader, voter, standby, replica
    faults:                      # killMachine, killDaemon, pauseMachine, pauseDaemon, partition, deafen, links
    - {type: killDaemon, every: 10s, duration: 2s}
    - {type: links, every: 20s, duration: 5s, delay: 100ms, lostPermille: 10}
    steadyState:                 # what must hold
    - {type: linearizability, clients: 4, keys: 4}
    - {type: available, within: 5s}
    - {type: podsRunOn, namespace: default, selector: app=web}
    - {type: api, path: /api/v1/namespaces/default/services/web/proxy/, failures: 3}
    guard: majority              # leave the voters their majority; or none
    abortAfter: 30s              # break off when no write succeeds for so long

Exit codes: 0 all of it held, 1 it did not, or the experiment could not be run."#;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run an experiment on the laboratory (`skein lab up`) and print its verdict
    #[command(after_long_help = EXAMPLE)]
    Run(Arguments),
    /// Undo whatever an experiment that was killed has left
    Heal,
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
struct Contexts {
    access: Access,
    names: Vec<String>,
}

impl Api for Contexts {
    fn nodes(&self) -> Vec<String> {
        self.names.clone()
    }

    fn ask(&self, node: &str, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> Result<(u16, Vec<u8>), String> {
        let asked = async {
            let exchange = self.access.exchange(node, method, path, body);
            tokio::time::timeout(patience, exchange).await.context("no answer in time")?
        };
        crate::block_on(asked).map_err(|why| format!("{why:#}"))
    }
}

/// Returns the exit code.
pub(crate) fn run(verb: Verb) -> Result<i32> {
    let lab = Lab::open(Layout::default())?;
    let arguments = match verb {
        Verb::Heal => return skein_nemesis::heal(&lab).map(|()| 0),
        Verb::Run(arguments) => arguments,
    };
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {}", arguments.file.display()))?;
    let experiment = Experiment::parse(&text).with_context(|| arguments.file.display().to_string())?;
    let experiment = match arguments.seed {
        Some(seed) => experiment.with_seed(seed),
        None => experiment,
    };
    let access = Access::of(lab.kubeconfig(None)?);
    let names = access.contexts()?;
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(Arc::clone(&stop));
    let tell = |line: &str| eprintln!("{line}");
    let report = skein_nemesis::run(&lab, Arc::new(Contexts { access, names }), &experiment, &stop, &tell)?;
    let value = serde_json::to_value(&report)?;
    match arguments.output {
        Output::Json => println!("{value:#}"),
        Output::Text => print(&value),
    }
    Ok(i32::from(report.verdict != "Passed"))
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
