//! `skein lab`: a whole cluster on this machine.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use skein_lab::{Ailment, Lab, Layout, Plan, Runtime, Shape};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Engine {
    Skein,
    Containerd,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build and start N nodes; what is there already stays
    Up {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Spread the nodes over so many regions (label topology.kubernetes.io/region)
        #[arg(long, default_value_t = 1)]
        regions: usize,
        /// What runs the containers: Skein's own runtime, or Debian's containerd
        #[arg(long, value_enum, default_value = "skein")]
        runtime: Engine,
        /// A registry that the nodes ask over plain HTTP, as host:port
        #[arg(long)]
        insecure_registry: Vec<String>,
        /// Let experiments that are objects of the API (ChaosExperiment) make faults on the nodes
        #[arg(long)]
        chaos: bool,
        /// Make the last node a witness, which votes and does nothing else
        #[arg(long)]
        witness: bool,
        /// Let no node share a link with another: between them is a router, as between regions
        #[arg(long)]
        routed: bool,
        /// Give each node a disk of its own, of so many MiB, which can be filled
        #[arg(long, value_name = "MIB")]
        disk_mib: Option<u64>,
    },
    /// Stop everything and leave nothing behind
    Down,
    /// Show the nodes and their processes
    Status {
        #[arg(long, short, default_value = "table")]
        output: String,
    },
    /// Kill a node: its daemon, its runtime and its containers
    Kill {
        node: String,
        /// Only the daemon: its containers live on
        #[arg(long)]
        daemon: bool,
    },
    /// Start a node that was killed
    Start { node: String },
    /// Freeze a node's processes
    Pause {
        node: String,
        #[arg(long)]
        daemon: bool,
    },
    /// Let a frozen node go on
    Resume {
        node: String,
        #[arg(long)]
        daemon: bool,
    },
    /// Cut the network between groups of nodes, as in `node-1,node-2/node-3`
    Partition { groups: String },
    /// Make the links between groups of nodes long or lossy, one way and the other; without numbers they are whole again
    Shape {
        /// As in `node-1,node-2/node-3`
        groups: String,
        /// How long a packet takes, one way
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// By how much more it may be
        #[arg(long, default_value_t = 0)]
        jitter_ms: u64,
        /// Of a thousand packets, how many are lost
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
        lost_permille: u32,
    },
    /// Undo every partition
    Heal,
    /// Let a node's daemon suffer: its disk is slow or full, or its clock is wrong
    Afflict {
        node: String,
        #[command(flatten)]
        suffering: Suffering,
    },
    /// End what a node's daemon suffers from
    Cure { node: String },
    #[command(hide = true)]
    Relay { directory: PathBuf },
    /// Run a command in a node's network namespace
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the path of a kubeconfig: for all nodes, or for one
    Kubeconfig { node: Option<String> },
    /// Load an image archive onto every node
    Load { image: PathBuf },
}

/// From what, one at a time.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Suffering {
    /// Its disk takes only so many writes a second
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    writes_per_second: Option<u64>,
    /// Nothing more fits on its disk, which must be its own: `skein lab up --disk-mib`
    #[arg(long)]
    full_disk: bool,
    /// Its clock is ahead by so many seconds, or behind
    #[arg(long, allow_negative_numbers = true)]
    time_offset_seconds: Option<i64>,
}

// === impl Suffering ===

impl Suffering {
    fn ailment(&self) -> Ailment {
        match (self.writes_per_second, self.time_offset_seconds) {
            (Some(writes_per_second), _) => Ailment::SlowDisk { writes_per_second },
            (None, Some(seconds)) => Ailment::Clock { seconds },
            (None, None) => Ailment::FullDisk,
        }
    }
}

/// Returns the exit code: that of the command, for `exec`.
pub(crate) fn run(verb: Verb) -> Result<i32> {
    let lab = Lab::open(Layout::default())?;
    match verb {
        Verb::Up { nodes, regions, runtime, insecure_registry, chaos, witness, routed, disk_mib } => {
            let runtime = match runtime {
                Engine::Skein => Runtime::Skein,
                Engine::Containerd => Runtime::Containerd,
            };
            let arguments = chaos.then(|| "--chaos".to_string()).into_iter().collect();
            let plan =
                Plan { regions, runtime, insecure_registries: insecure_registry, arguments, witness, routed, disk_mib, ..Plan::new(nodes) };
            lab.up(&plan)?;
            println!("export KUBECONFIG={}", lab.kubeconfig(None)?.display());
        }
        Verb::Down => lab.down()?,
        Verb::Status { output } => {
            let status = lab.status()?;
            if output == "json" {
                println!("{status:#}");
            } else {
                println!("{:<12} {:<16} {:<10}", "NODE", "ADDRESS", "DAEMON");
                for node in status["nodes"].as_array().into_iter().flatten() {
                    let text = |field: &str| node[field].as_str().unwrap_or_default().to_string();
                    println!("{:<12} {:<16} {:<10}", text("name"), text("address"), text("daemon"));
                }
            }
        }
        Verb::Kill { node, daemon } => lab.kill(&node, scope(daemon))?,
        Verb::Start { node } => lab.start(&node)?,
        Verb::Pause { node, daemon } => lab.pause(&node, scope(daemon))?,
        Verb::Resume { node, daemon } => lab.resume(&node, scope(daemon))?,
        Verb::Partition { groups } => lab.partition(&groups)?,
        Verb::Shape { groups, delay_ms, jitter_ms, lost_permille } => lab.shape(&groups, Shape { delay_ms, jitter_ms, lost_permille })?,
        Verb::Heal => lab.heal()?,
        Verb::Afflict { node, suffering } => lab.afflict(&node, suffering.ailment())?,
        Verb::Cure { node } => lab.cure(&node)?,
        Verb::Relay { directory } => Lab::open(Layout { directory, ..Layout::default() })?.relay()?,
        Verb::Exec { node, command } => return lab.exec(&node, &command),
        Verb::Kubeconfig { node } => {
            lab.write_kubeconfigs()?;
            println!("{}", lab.kubeconfig(node.as_deref())?.display());
        }
        Verb::Load { image } => lab.load(&image)?,
    }
    Ok(0)
}

fn scope(daemon: bool) -> skein_lab::Scope {
    if daemon { skein_lab::Scope::Daemon } else { skein_lab::Scope::Machine }
}
