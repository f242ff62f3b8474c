//! `skein recover`: a cluster that has lost the majority of its voters for good.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use skein_daemon::{Remains, Standing};

/// Shows what this node has of its cluster and which voters can be reached; with --force-quorum, lets the cluster go on
/// from here, without those who are gone.
///
/// Without a majority of the voters nothing can be written, but nothing is lost either: Pods keep running, and all goes
/// on as soon as a majority is back. Force a quorum only when it will never be back. What the others acknowledged and
/// this node has not heard of is lost then, so run this on every voter that is left, and force it where LAST ENTRY is
/// the highest (first the term, then the index).
///
/// The daemon must be stopped. A new epoch of the cluster begins, with this node as its only voter; `skein up` runs it as
/// before, with the same keys, kubeconfigs and Pods. Other nodes that come back hear of the new epoch and stop; to let one
/// in, move its data directory away and start it with --join TOKEN.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Begin a new epoch; refused while a majority of the voters can be reached
    #[arg(long)]
    force_quorum: bool,
    /// The node's directory
    #[arg(long, default_value = "/var/lib/skein")]
    data_dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    crate::block_on(async {
        eprintln!("reading {} and trying to reach the other voters", arguments.data_dir.display());
        let remains = Remains::look(&arguments.data_dir).await?;
        print(&remains);
        match (arguments.force_quorum, remains.has_majority()) {
            (true, _) => {
                remains.force_quorum().await?;
                println!("recovered: epoch {} begins with node {} as its only voter.", remains.epoch + 1, remains.name);
                println!("next: start its daemon with `skein up` as before, then let others join (`skein token create`).");
            }
            (false, true) => println!("A majority can be reached: start this node's daemon, and the cluster works."),
            (false, false) => {
                println!("A majority cannot be reached. If it will never be back: skein recover --force-quorum (see --help)");
                bail!("no quorum");
            }
        }
        Ok(())
    })
}

fn print(remains: &Remains) {
    println!("{:<20} {:<24} STANDING", "VOTER", "ADDRESS");
    for voter in &remains.voters {
        let standing = match voter.standing {
            Standing::This => "this node",
            Standing::Reachable => "reachable",
            Standing::Gone => "cannot be reached",
        };
        println!("{:<20} {:<24} {standing}", voter.name, voter.address);
    }
    println!();
    println!(
        "LAST ENTRY: term {}, index {}; revision {}, {} objects; epoch {}",
        remains.term, remains.index, remains.revision, remains.objects, remains.epoch
    );
}
