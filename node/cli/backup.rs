//! `skein backup`: the whole cluster in a file.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use skein_daemon::{Backup, Sealer};

use crate::client::Access;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Write a backup of the cluster's whole state and its keys, at one revision, while it goes on working.
    Create {
        /// The file to write; one that is there is replaced
        file: PathBuf,
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Open a backup and read it to its end: says what is in it, and fails where anything is missing or damaged.
    Verify {
        file: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
}

/// What a backup is sealed with. Without it nobody can open the file.
#[derive(Args)]
pub(crate) struct Passphrase {
    /// A file whose first line is the passphrase [default: $SKEIN_PASSPHRASE]
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

// === impl Passphrase ===

impl Passphrase {
    pub(crate) fn read(&self) -> Result<String> {
        let text = match &self.passphrase_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => std::env::var("SKEIN_PASSPHRASE").unwrap_or_default(),
        };
        let line = text.lines().next().unwrap_or_default().to_string();
        if line.is_empty() {
            bail!("a backup is sealed by a passphrase: give --passphrase-file FILE or set SKEIN_PASSPHRASE");
        }
        Ok(line)
    }
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Create { file, access, passphrase } => create(&file, &access, &passphrase.read()?),
        Verb::Verify { file, passphrase } => {
            let backup = open(&file, &passphrase.read()?)?;
            let about = &backup.about;
            println!(
                "{}: {} objects at revision {}, made {} by version {}",
                file.display(),
                backup.objects(),
                about.revision,
                about.time,
                about.version
            );
            Ok(())
        }
    }
}

/// Opens a backup of a file.
pub(crate) fn open(file: &Path, passphrase: &str) -> Result<Backup> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    Backup::open(BufReader::new(opened), passphrase).with_context(|| file.display().to_string())
}

fn create(file: &Path, access: &Access, passphrase: &str) -> Result<()> {
    let temporary = file.with_extension("new");
    let failed = || format!("cannot write {}", temporary.display());
    crate::block_on(async {
        let mut body = access.stream("/skein/v1/backup").await?;
        let mut sealer = Sealer::new(std::io::BufWriter::new(File::create(&temporary).with_context(failed)?), passphrase)?;
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                sealer.push(&bytes)?;
            }
        }
        let written = sealer.finish()?.into_inner().with_context(failed)?;
        written.sync_all().with_context(failed)?;
        anyhow::Ok(())
    })?;
    // What is told is what can be read again.
    let backup = open(&temporary, passphrase)?;
    std::fs::rename(&temporary, file).with_context(failed)?;
    println!("{}: {} objects at revision {}", file.display(), backup.objects(), backup.about.revision);
    Ok(())
}
