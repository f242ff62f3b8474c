//! `skein restore`: a new cluster with the state of a backup.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use skein_daemon::Place;

use crate::backup::{Location, Passphrase, open};

/// Founds a new cluster of one node with a backup's state and keys. Names and addresses may be new: what belonged to the
/// old nodes is left out, and workloads are started anew. Then `skein up` runs the node, and others join it.
///
/// Stop what is left of the old cluster first: it has the same keys.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The backup: a file, or s3://BUCKET/KEY
    #[arg(value_name = "FILE")]
    from: Location,
    #[command(flatten)]
    passphrase: Passphrase,
    /// The address that other nodes and clients will reach this node at
    #[arg(long)]
    address: IpAddr,
    /// The Node's name [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// An empty directory, which `skein up` is then given
    #[arg(long, default_value = "/var/lib/skein")]
    data_dir: PathBuf,
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let backup = open(&arguments.from, &arguments.passphrase.read()?)?;
    let place = Place {
        name: crate::up::node_name(arguments.name)?,
        directory: arguments.data_dir,
        address: arguments.address,
        api_port: arguments.api_port,
        peer_port: arguments.peer_port,
    };
    crate::block_on(async { Ok(backup.restore(&place).await?) })?;
    println!("restored {} objects of revision {} into {}", backup.objects(), backup.about.revision, place.directory.display());
    println!("next: skein up --address {} --name {} --data-dir {}", place.address, place.name, place.directory.display());
    Ok(())
}
