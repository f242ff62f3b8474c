//! The Pod network: an address for every Pod that Pods on every other node reach without NAT.
//!
//! ```text
//!   Pod eth0 10.244.1.7/32 ── default via 169.254.1.1 ──▶ skp… on the node (answers ARP for it)
//!   node: 10.244.1.7/32 dev skp…      10.244.2.0/24 via node-2's address, or through a tunnel      …
//! ```
//!
//! [`cni`] is the plugin that the container runtime calls for each Pod; [`policy`] says which packets pass; [`routes`] are
//! the ways to the other nodes' ranges; [`egress`] is the way out.

pub mod cni;
pub mod egress;
pub mod policy;
pub mod routes;

use std::io::Write;
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("ip {command}: {stderr}")]
    Ip { command: String, stderr: String },
    #[error("network configuration: {0}")]
    Config(String),
    #[error("no address is free in {0}")]
    Full(String),
}

/// Runs a batch of iproute2 commands, in a network namespace where one is given; the first failure ends it.
fn ip(namespace: Option<&str>, lines: &[String]) -> Result<(), Error> {
    let mut command = match namespace {
        Some(path) => {
            let mut command = Command::new("nsenter");
            command.args([&format!("--net={path}"), "--", "ip"]);
            command
        }
        None => Command::new("ip"),
    };
    let io = |source| Error::Io { what: "cannot run ip".into(), source };
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(io)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.join("\n").as_bytes()).map_err(io)?;
    }
    let output = child.wait_with_output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Ip { command: lines.join("; "), stderr: String::from_utf8_lossy(&output.stderr).trim().to_string() })
}
