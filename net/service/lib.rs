//! Services on a node: from Services and EndpointSlices to nftables.
//!
//! ```text
//!   packet ─▶ dispatch ─▶ map services (address . protocol . port) ─▶ svc/NAMESPACE/NAME/PROTOCOL/PORT ─▶ dnat
//!                     └─▶ map node_ports (protocol . port) ─▶ ext/… (marks for masquerade) ─┘
//! ```
//!
//! A packet costs one look-up in a map, however many Services there are; a Service that changes costs its own chain and
//! elements. [`dns`] answers for the names of Services from the same objects; [`zone`] says how, and is pure.
//! [`plan`] is pure; [`Table`] applies what differs from what it applied last, in one transaction of nft's.

pub mod dns;
pub mod plan;
pub mod zone;

use std::io::Write;
use std::process::{Command, Stdio};

use plan::{Rules, script};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run nft (Debian package nftables): {0}")]
    Program(std::io::Error),
    #[error("nft: {0}")]
    Refused(String),
}

/// The node's table, as it was written last.
#[derive(Default)]
pub struct Table {
    applied: Option<Rules>,
}

// === impl Table ===

impl Table {
    /// Brings the table to what is wanted. The first time, and after a failure, it is written anew as a whole.
    pub fn apply(&mut self, wanted: Rules) -> Result<(), Error> {
        let text = script(self.applied.as_ref(), &wanted);
        if text.is_empty() {
            return Ok(());
        }
        self.applied = None;
        nft(&text)?;
        self.applied = Some(wanted);
        Ok(())
    }
}

fn nft(text: &str) -> Result<(), Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Program)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(Error::Program)?;
    }
    let output = child.wait_with_output().map_err(Error::Program)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Refused(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_string()))
}
