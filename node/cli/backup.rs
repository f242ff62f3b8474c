//! `skein backup`: the whole cluster in a file, or in an object of S3-compatible storage.

mod location;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use skein_daemon::{Backup, Sealer};

use crate::client::Access;

pub(crate) use location::Location;
use location::Object;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Write a backup of the cluster's whole state and its keys, at one revision, while it goes on working.
    Create {
        /// The file to write, or s3://BUCKET/KEY (the storage by AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and
        /// AWS_SECRET_ACCESS_KEY); what is there is replaced
        #[arg(value_name = "FILE")]
        to: Location,
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Open a backup and read it to its end: says what is in it, and fails where anything is missing or damaged.
    Verify {
        /// A file, or s3://BUCKET/KEY
        #[arg(value_name = "FILE")]
        from: Location,
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
        Verb::Create { to, access, passphrase } => create(&to, &access, &passphrase.read()?),
        Verb::Verify { from, passphrase } => {
            let backup = open(&from, &passphrase.read()?)?;
            let about = &backup.about;
            println!(
                "{from}: {} objects at revision {}, made {} by version {}",
                backup.objects(),
                about.revision,
                about.time,
                about.version
            );
            Ok(())
        }
    }
}

/// Opens a backup, wherever it lies.
pub(crate) fn open(from: &Location, passphrase: &str) -> Result<Backup> {
    let opened = match from {
        Location::File(path) => File::open(path).with_context(|| format!("cannot open {from}"))?,
        Location::Object { bucket, key } => {
            crate::block_on(async { Object::of(bucket, key)?.get().await }).with_context(|| format!("cannot read {from}"))?
        }
    };
    Backup::open(BufReader::new(opened), passphrase).with_context(|| from.to_string())
}

fn create(to: &Location, access: &Access, passphrase: &str) -> Result<()> {
    let backup = match to {
        Location::File(file) => {
            let temporary = file.with_extension("new");
            write(&temporary, access, passphrase)?;
            // What is told is what can be read again.
            let backup = open(&Location::File(temporary.clone()), passphrase)?;
            std::fs::rename(&temporary, file).with_context(|| format!("cannot write {to}"))?;
            backup
        }
        Location::Object { bucket, key } => {
            // Found out before the cluster is asked for anything.
            let object = Object::of(bucket, key)?;
            let temporary = tempfile::NamedTempFile::new()?;
            write(temporary.path(), access, passphrase)?;
            crate::block_on(async { object.put(temporary.path()).await }).with_context(|| format!("cannot write {to}"))?;
            open(to, passphrase)?
        }
    };
    println!("{to}: {} objects at revision {}", backup.objects(), backup.about.revision);
    Ok(())
}

/// Writes what the cluster sends, sealed, and syncs it.
fn write(file: &Path, access: &Access, passphrase: &str) -> Result<()> {
    let failed = || format!("cannot write {}", file.display());
    crate::block_on(async {
        let mut body = access.stream("/skein/v1/backup").await?;
        let mut sealer = Sealer::new(std::io::BufWriter::new(File::create(file).with_context(failed)?), passphrase)?;
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                sealer.push(&bytes)?;
            }
        }
        let written = sealer.finish()?.into_inner().with_context(failed)?;
        written.sync_all().with_context(failed)
    })
}
