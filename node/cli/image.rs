//! `skein image`: image archives into the runtime's store, also while it runs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use skein_runtime::images::{Store, archive};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Load an image archive (an OCI layout or `docker save`, gzipped or not)
    Load {
        archive: PathBuf,
        /// The runtime's directory on this node
        #[arg(long, default_value = "/var/lib/skein/runtime")]
        directory: PathBuf,
    },
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    let Verb::Load { archive, directory } = verb;
    let store = Store::open(&directory.join("images"))?;
    for image in archive::load(&store, &archive)? {
        println!("{} {}", image.id, image.tags.join(" "));
    }
    Ok(())
}
