//! `skein up`: runs a node.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use skein_daemon::{Options, Runtime, Token};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The node's name [default: this machine's host name]
    #[arg(long)]
    name: Option<String>,
    /// Where the node keeps its keys, the log and the state
    #[arg(long, default_value = "/var/lib/skein")]
    data_dir: PathBuf,
    /// The address at which other nodes and clients reach this one
    #[arg(long)]
    address: IpAddr,
    /// Port of the Kubernetes API (TCP)
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Port for other nodes (UDP)
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
    /// Join the cluster of this token, made there by `skein token create`; without it a cluster is founded
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Where the ClusterIPs of Services come from
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: String,
    /// The socket of the container runtime (CRI v1)
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    container_runtime_endpoint: PathBuf,
    /// Where the container runtime looks for CNI configuration
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// The cgroup below which Pods get theirs
    #[arg(long, default_value = "/skein")]
    cgroup_root: String,
    /// Labels for the Node, as in a=b,c=d
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    Ok((key.into(), value.into()))
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let filter = EnvFilter::try_from_env("SKEIN_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let join = arguments.join.as_deref().map(str::parse::<Token>).transpose()?;
    let name = match arguments.name {
        Some(name) => name,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name: give --name")?.trim().to_string(),
    };
    let options = Options {
        name,
        directory: arguments.data_dir,
        address: arguments.address,
        api_port: arguments.api_port,
        peer_port: arguments.peer_port,
        join,
        service_range: arguments.service_cluster_ip_range,
        runtime: Runtime {
            endpoint: arguments.container_runtime_endpoint,
            cni_directory: arguments.cni_conf_dir,
            cgroup_root: arguments.cgroup_root,
        },
        labels: arguments.node_labels,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(skein_daemon::run(options, stop).await?)
    })
}
