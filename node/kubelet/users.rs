//! Ranges of users and groups for Pods that have their own (`hostUsers: false`, KEP-127, `pkg/kubelet/userns`).
//!
//! - **Invariant:** a Pod's range is on disk before anything runs in it, and free again only with the Pod's directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use skein_cri as v1;

use crate::Error;
use crate::volumes::failed;

/// The numbers of one Pod; the first range stays the node's own.
const LENGTH: u32 = 65_536;
const RANGES_MAX: u32 = u32::MAX / LENGTH;
const FILE: &str = "userns";

/// As kubelet writes it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Notes {
    uid_mappings: Vec<Range>,
    gid_mappings: Vec<Range>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

fn range_of(pod: &Path) -> Option<Range> {
    let notes: Notes = serde_json::from_slice(&fs::read(pod.join(FILE)).ok()?).ok()?;
    notes.uid_mappings.into_iter().next()
}

/// The range of the Pod whose directory this is, taken where it has none yet.
pub(crate) fn mapping(pod: &Path) -> Result<v1::IdMapping, Error> {
    static TAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let range = match range_of(pod) {
        Some(range) => range,
        None => take(pod)?,
    };
    Ok(v1::IdMapping { host_id: range.host_id, container_id: range.container_id, length: range.length })
}

fn take(pod: &Path) -> Result<Range, Error> {
    let pods = pod.parent().unwrap_or(pod);
    let others = fs::read_dir(pods).into_iter().flatten().flatten().filter_map(|entry| range_of(&entry.path()));
    let taken: BTreeSet<u32> = others.map(|range| range.host_id / LENGTH).collect();
    let free = (1..RANGES_MAX).find(|index| !taken.contains(index));
    let free = free.ok_or_else(|| Error::Config("could not find an empty slot to allocate a user namespace".into()))?;
    let range = Range { host_id: free * LENGTH, container_id: 0, length: LENGTH };
    let notes = Notes { uid_mappings: vec![range.clone()], gid_mappings: vec![range.clone()] };
    let write = || {
        fs::create_dir_all(pod)?;
        let new = pod.join(".userns");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(&notes)?)?;
        file.sync_all()?;
        fs::rename(&new, pod.join(FILE))
    };
    write().map_err(failed(pod))?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_the_same_users() {
        let pods = std::env::temp_dir().join(format!("skein-users-test-{}", std::process::id()));
        let first = |pod: &str| mapping(&pods.join(pod)).expect("a range").host_id;
        assert_eq!((first("a"), first("b"), first("a")), (65_536, 131_072, 65_536));
        fs::remove_dir_all(pods.join("a")).expect("it is there");
        assert_eq!((first("b"), first("c")), (131_072, 65_536));
        let _ = fs::remove_dir_all(pods);
    }
}
