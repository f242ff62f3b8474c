//! `skein runtime`: the container runtime as a process of its own. `skein up` starts it; nobody else need.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use skein_pod::cni;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where images, Pods and containers are kept
    #[arg(long, default_value = "/var/lib/skein/runtime")]
    directory: PathBuf,
    /// The socket on which CRI v1 is served
    #[arg(long, default_value = "/var/lib/skein/runtime.sock")]
    endpoint: PathBuf,
    /// Where CNI configuration is looked for
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where CNI plugins are looked for, besides Skein's own
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// A registry to ask over plain HTTP, as host:port (those on 127.0.0.1 always are)
    #[arg(long)]
    insecure_registry: Vec<String>,
    /// The address at which exec, attach and port-forward are streamed
    #[arg(long, default_value = "127.0.0.1")]
    streaming_address: IpAddr,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    crate::log_to_stderr();
    skein_runtime::run(skein_runtime::Options {
        directory: arguments.directory,
        endpoint: arguments.endpoint,
        cni_conf_dir: arguments.cni_conf_dir,
        cni_bin_dir: arguments.cni_bin_dir,
        own_plugin: skein_runtime::Plugin { kind: cni::PLUGIN, call: own_plugin },
        insecure_registries: arguments.insecure_registry,
        streaming_address: arguments.streaming_address,
    })
    .context("the container runtime cannot run")
}

/// Skein's own plugin, in the runtime's process: what a program's start takes is most of what it takes to connect a Pod.
fn own_plugin(call: &skein_runtime::Call) -> Result<Value, String> {
    let call = cni::Call {
        command: call.command,
        container: &call.container,
        namespace: &call.namespace,
        interface: call.interface,
        config: &call.config,
    };
    cni::answer(&call).map_err(|why| why.to_string())
}
