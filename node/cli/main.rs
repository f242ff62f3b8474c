//! The command line: one file per verb.

mod backup;
mod ca;
mod chaos;
mod client;
mod image;
mod kubeconfig;
mod lab;
mod recover;
mod restore;
mod runtime;
mod status;
mod token;
mod up;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "skein", version, about = "A container orchestrator with no control plane: every machine runs the same daemon.", long_about = None)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a node: found a cluster, or join one with --join TOKEN.
    Up(Box<up::Arguments>),
    /// Make tokens with which nodes join.
    #[command(subcommand)]
    Token(token::Verb),
    /// Show the nodes, who leads, and how far each has come.
    Status(status::Arguments),
    /// Print a kubeconfig for kubectl.
    Kubeconfig(kubeconfig::Arguments),
    /// Give the cluster's certificate authority a successor.
    #[command(subcommand)]
    Ca(ca::Verb),
    /// Write the whole cluster into a file, or check such a file.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Found a new cluster with the state of a backup.
    Restore(restore::Arguments),
    /// See what is left of a cluster that lost the majority of its voters, and go on from there.
    Recover(recover::Arguments),
    /// Load images from archives.
    #[command(subcommand)]
    Image(image::Verb),
    /// Run the container runtime (a CRI server); `skein up` does it by itself.
    Runtime(runtime::Arguments),
    /// Run experiments with faults on the laboratory's nodes.
    #[command(subcommand)]
    Chaos(chaos::Verb),
    /// Run a whole cluster on this machine, each node in a network namespace of its own.
    #[command(subcommand)]
    Lab(lab::Verb),
}

fn main() -> std::process::ExitCode {
    // The container runtime calls this same program as its CNI plugins, by their names.
    let called = std::env::args().next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    if [skein_pod::cni::PLUGIN, skein_pod::cni::LOOPBACK].contains(&name) {
        return if skein_pod::cni::main(name) == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE };
    }
    let result = match Cli::parse().verb {
        Verb::Up(arguments) => up::run(*arguments).map(|()| 0),
        Verb::Token(verb) => token::run(verb).map(|()| 0),
        Verb::Status(arguments) => status::run(&arguments).map(|()| 0),
        Verb::Kubeconfig(arguments) => kubeconfig::run(&arguments).map(|()| 0),
        Verb::Ca(verb) => ca::run(&verb).map(|()| 0),
        Verb::Backup(verb) => backup::run(verb).map(|()| 0),
        Verb::Restore(arguments) => restore::run(arguments).map(|()| 0),
        Verb::Recover(arguments) => recover::run(&arguments).map(|()| 0),
        Verb::Image(verb) => image::run(verb).map(|()| 0),
        Verb::Runtime(arguments) => runtime::run(arguments).map(|()| 0),
        Verb::Chaos(verb) => chaos::run(verb),
        Verb::Lab(verb) => lab::run(verb),
    };
    match result {
        Ok(code) => std::process::ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(why) => {
            eprintln!("error: {why:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// What a process that runs on says goes to standard error, in the detail that SKEIN_LOG asks for.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("SKEIN_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// A runtime for a verb that talks to a cluster and ends.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
