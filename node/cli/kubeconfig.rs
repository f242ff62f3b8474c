//! `skein kubeconfig`: prints the administrator's kubeconfig of a node that votes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The node's directory
    #[arg(long, default_value = "/var/lib/skein")]
    data_dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.data_dir.join("admin.kubeconfig");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: only nodes that vote have one (see `skein status`)", path.display()))?;
    println!("{text}");
    Ok(())
}
