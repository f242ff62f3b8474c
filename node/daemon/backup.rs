//! Backups: the whole state at one revision with the cluster's keys, sealed by a passphrase.
//!
//! ```text
//!   a voter: keys, chunks of the state ─▶ frames ─▶ HTTPS ─▶ Sealer ─▶ file ─▶ open ─▶ Backup ─▶ restore ─▶ a directory
//! ```
//!
//! Format 1 of a file: [`MAGIC`], a salt of 16 bytes, the iterations of PBKDF2 (u32), then sealed frames, each with its
//! length (u32); numbers are big-endian. Frame number *n* is sealed with nonce *n*, so none can be left out, moved or come
//! twice; that all are there is said by the last chunk of the state. The first frame is [`About`] as JSON.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use jiff::Timestamp;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use skein_api::{OF_CLUSTER, TOKEN_KEYS};
use skein_object::meta;
use skein_quic::Authority;
use skein_state::{Chunks, Restore, State};
use skein_store::{Member, Storage};

use crate::directory::{Directory, NodeFile};
use crate::{Error, found};

const MAGIC: &[u8] = b"SKEIN-BACKUP 1\n";
const SALT_BYTES: usize = 16;

/// OWASP's number for PBKDF2 with HMAC-SHA256.
const ITERATIONS: u32 = 600_000;

/// No frame is larger: a chunk of the state aims at a mebibyte.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// What was written before a restore is old to every client: revisions go on from here.
pub(crate) const REVISION_STEP: u64 = 1 << 40;

/// What belongs to the nodes that were, and not to the cluster.
const OF_NODES: &[&str] = &[
    "nodes",
    "leases.coordination.k8s.io",
    "csinodes.storage.k8s.io",
    "events",
    "jointokens.skein.dev",
    "nodekeys.skein.dev",
    skein_store::REPLICAS,
    "volumeattachments.storage.k8s.io",
];

/// What a backup says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    pub revision: u64,
    pub time: String,
    pub version: String,
    authority_certificate: String,
    authority_key: String,
}

/// A backup, opened and whole.
pub struct Backup {
    pub about: About,
    state: State,
}

/// Where a restored cluster begins.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub directory: PathBuf,
    pub address: IpAddr,
    pub api_port: u16,
    pub peer_port: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot read or write the backup: {0}")]
    Io(#[from] io::Error),
    #[error("this is not a backup of Skein, or one of a newer version")]
    Foreign,
    #[error("the backup cannot be opened: the passphrase is wrong, or the file is damaged (frame {0})")]
    Sealed(u64),
    #[error("the backup is not whole: {0}")]
    Malformed(String),
}

/// The frames of a backup as a voter sends them, each with its length; unsealed, for they travel over TLS.
pub(crate) struct Frames {
    about: Option<About>,
    chunks: Chunks,
}

/// Seals frames as they come, in pieces of any size.
pub struct Sealer<W> {
    to: W,
    key: LessSafeKey,
    pending: Vec<u8>,
    count: u64,
}

// === impl Frames ===

impl Frames {
    pub(crate) fn of(state: &State, authority: &Authority) -> Self {
        let about = About {
            revision: state.revision(),
            time: meta::time(Timestamp::now()),
            version: env!("CARGO_PKG_VERSION").into(),
            authority_certificate: authority.certificate_pem.clone(),
            authority_key: authority.key_pem.clone(),
        };
        Self { about: Some(about), chunks: state.chunks() }
    }
}

impl Iterator for Frames {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let content = match self.about.take() {
            Some(about) => serde_json::to_vec(&about).expect("plain data"),
            None => self.chunks.next()?,
        };
        let mut frame = u32::try_from(content.len()).expect("a chunk is small").to_be_bytes().to_vec();
        frame.extend_from_slice(&content);
        Some(frame)
    }
}

// === impl Sealer ===

impl<W: Write> Sealer<W> {
    pub fn new(mut to: W, passphrase: &str) -> Result<Self, BackupError> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| io::Error::other("this machine has no random numbers"))?;
        to.write_all(MAGIC)?;
        to.write_all(&salt)?;
        to.write_all(&ITERATIONS.to_be_bytes())?;
        Ok(Self { to, key: key(passphrase, &salt, ITERATIONS), pending: Vec::new(), count: 0 })
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.pending.extend_from_slice(bytes);
        while let Some((head, rest)) = self.pending.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(BackupError::Malformed("a frame is too large".into()));
            }
            let Some(content) = rest.get(..length) else { return Ok(()) };
            let mut sealed = content.to_vec();
            self.key.seal_in_place_append_tag(nonce(self.count), Aad::empty(), &mut sealed).map_err(|_| BackupError::Sealed(self.count))?;
            self.to.write_all(&u32::try_from(sealed.len()).unwrap_or(0).to_be_bytes())?;
            self.to.write_all(&sealed)?;
            self.count += 1;
            self.pending.drain(..4 + length);
        }
        Ok(())
    }

    /// The end of what was sent; whether it is the end of the state is seen when the file is opened.
    pub fn finish(mut self) -> Result<W, BackupError> {
        if !self.pending.is_empty() {
            return Err(BackupError::Malformed("the connection broke off".into()));
        }
        self.to.flush()?;
        Ok(self.to)
    }
}

fn key(passphrase: &str, salt: &[u8], iterations: u32) -> LessSafeKey {
    let mut bytes = [0; 32];
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, passphrase.as_bytes(), &mut bytes);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key has 32 bytes"))
}

fn nonce(count: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&count.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

// === impl Backup ===

impl Backup {
    /// Reads a backup to its end: what this returns is whole and was sealed with the passphrase.
    pub fn open(mut from: impl Read, passphrase: &str) -> Result<Self, BackupError> {
        let mut head = [0; MAGIC.len() + SALT_BYTES + 4];
        from.read_exact(&mut head).map_err(|_| BackupError::Foreign)?;
        let (magic, rest) = head.split_at(MAGIC.len());
        let (salt, iterations) = rest.split_at(SALT_BYTES);
        let iterations = u32::from_be_bytes([iterations[0], iterations[1], iterations[2], iterations[3]]);
        // A damaged number must not keep this busy for hours.
        if magic != MAGIC || iterations > 100 * ITERATIONS {
            return Err(BackupError::Foreign);
        }
        let key = key(passphrase, salt, iterations);
        let mut about = None;
        let mut restore = Restore::default();
        for count in 0.. {
            let mut length = [0; 4];
            match from.read_exact(&mut length) {
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(BackupError::Sealed(count));
            }
            let mut frame = vec![0; length];
            from.read_exact(&mut frame).map_err(|_| BackupError::Malformed("the file ends in a frame".into()))?;
            let content = key.open_in_place(nonce(count), Aad::empty(), &mut frame).map_err(|_| BackupError::Sealed(count))?;
            match about {
                None => about = Some(serde_json::from_slice::<About>(content).map_err(|why| BackupError::Malformed(why.to_string()))?),
                Some(_) => restore.push(content).map_err(|why| BackupError::Malformed(why.to_string()))?,
            }
        }
        let about = about.ok_or_else(|| BackupError::Malformed("nothing is in it".into()))?;
        let state = restore.finish().map_err(|why| BackupError::Malformed(why.to_string()))?;
        Ok(Self { about, state })
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.state.len()
    }

    /// Founds a cluster with this state in a directory that has none. What belonged to the old nodes, their Pods among
    /// it, is left out; controllers make theirs anew.
    pub async fn restore(&self, place: &Place) -> Result<(), Error> {
        let directory = Directory::open(&place.directory)?;
        if let Some(node) = directory.node()? {
            return Err(Error::ForeignDirectory { path: place.directory.clone(), found: node.name, wanted: place.name.clone() });
        }
        let authority = Authority::load(&self.about.authority_certificate, &self.about.authority_key)?;
        let mut state = self.state.retained(|key, entry| match key.resource() {
            "pods" => entry.record.field("spec").is_none_or(|spec| spec["nodeName"].as_str().unwrap_or_default().is_empty()),
            // The private halves of the nodes' keys were on the old nodes.
            TOKEN_KEYS => key.name().starts_with(OF_CLUSTER),
            resource => !OF_NODES.contains(&resource),
        });
        state.restore_revision(self.state.revision() + REVISION_STEP);
        let id = found::draw_id();
        let address = SocketAddr::new(place.address, place.peer_port).to_string();
        let storage = Storage::open(&place.directory).map_err(skein_store::Error::from)?;
        skein_store::found_with(&storage, id, Member { name: place.name.clone(), address, witness: None }, &state)
            .await
            .map_err(skein_store::Error::from)?;
        // Last, so that a restore that broke off is no node: it can be done again in an empty directory.
        let node = NodeFile { format: 1, name: place.name.clone(), id, address: place.address, founder: true, epoch: 0, witness: false };
        found::equip(&directory, &authority, &node, place.api_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_object::{Key, Record};
    use skein_state::Entry;
    use std::sync::Arc;

    fn sealed() -> Vec<u8> {
        let mut state = State::default();
        for index in 0..2000 {
            let record = Record::from_value(&json!({"metadata": {"name": "x"}, "data": {"v": "y".repeat(1000)}}));
            state.restore(Key::new("configmaps", "n", &format!("c{index}")), Entry { revision: index + 1, record: Arc::new(record) });
        }
        let authority = Authority::create("test").expect("an authority");
        let mut sealer = Sealer::new(Vec::new(), "sesame").expect("a sealer");
        // As the network brings it: in pieces that are no frames.
        let bytes: Vec<u8> = Frames::of(&state, &authority).flatten().collect();
        bytes.chunks(70_001).for_each(|piece| sealer.push(piece).expect("it is sealed"));
        sealer.finish().expect("it is whole")
    }

    #[test]
    fn what_was_sealed_is_opened_by_the_passphrase_only() {
        let file = sealed();
        let backup = Backup::open(file.as_slice(), "sesame").expect("it opens");
        assert_eq!((backup.objects(), backup.about.revision), (2000, 2000));
        assert!(matches!(Backup::open(file.as_slice(), "Sesame"), Err(BackupError::Sealed(0))));
        // A run so long that no cipher makes one by chance.
        assert!(!file.windows(16).any(|bytes| bytes == [b'y'; 16]), "nothing is readable");
    }

    #[test]
    fn damage_is_seen() {
        let file = sealed();
        let mut flipped = file.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(matches!(Backup::open(flipped.as_slice(), "sesame"), Err(BackupError::Sealed(_))));
        assert!(matches!(Backup::open(&file[..file.len() - 1], "sesame"), Err(BackupError::Malformed(_))));
        // Cut between two frames: every frame is genuine, and the last is missing.
        let frames = MAGIC.len() + SALT_BYTES + 4;
        let length = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().expect("four")) as usize;
        let second = frames + 4 + length(frames);
        let third = second + 4 + length(second);
        assert!(matches!(Backup::open(&file[..third], "sesame"), Err(BackupError::Malformed(_))));
        assert!(matches!(Backup::open(&b"something else entirely, and long enough"[..], "sesame"), Err(BackupError::Foreign)));
    }
}
