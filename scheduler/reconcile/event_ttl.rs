//! Events live for an hour, as kube-apiserver keeps them (`--event-ttl`).

use serde::Deserialize;
use skein_command::{Transaction, Write};
use skein_object::Key;

use crate::snapshot::Snapshot;
use crate::{Mint, Outcome};

const SECONDS: i64 = 3600;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    creation_timestamp: String,
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &Mint) -> Outcome {
    let Some(entry) = snapshot.state.get(key) else { return Outcome::default() };
    let metadata = entry.record.segment("metadata").and_then(|json| serde_json::from_slice::<Metadata>(json).ok());
    let age = metadata.and_then(|m| mint.seconds_since(&m.creation_timestamp)).unwrap_or(SECONDS);
    if age < SECONDS {
        return Outcome { again_ms: u64::try_from((SECONDS - age) * 1000).ok(), ..Outcome::default() };
    }
    Outcome::from(vec![Transaction::from(Write::delete(key, entry.revision))])
}
