//! What the nodes say has happened to the load's keys, and whether it is one history.

use std::collections::BTreeMap;

use serde_json::Value;
use skein_invariant::Change;

use crate::load::{digest, revision};

/// All keys at a revision: the revision and the content of each.
#[derive(Debug, PartialEq)]
pub(crate) struct Listed {
    pub(crate) at: u64,
    pub(crate) keys: BTreeMap<String, (u64, u64)>,
}

/// What a node says has happened.
#[derive(Debug, PartialEq)]
pub(crate) struct History {
    pub(crate) since: u64,
    /// What the node has, where it cannot tell how that came to be.
    pub(crate) listed: Option<Listed>,
    pub(crate) changes: Vec<Change>,
}

// === impl History ===

impl History {
    pub(crate) fn is_part_of(&self, whole: &[Change]) -> Result<(), String> {
        let later: Vec<&Change> = whole.iter().filter(|change| change.revision > self.since).collect();
        if later != self.changes.iter().collect::<Vec<_>>() {
            return Err("tells another history than the other nodes, in what happened or in its order".into());
        }
        let Some(Listed { at, keys }) = &self.listed else { return Ok(()) };
        let mut expected = BTreeMap::new();
        for change in whole.iter().filter(|change| change.revision <= *at) {
            match change.digest {
                Some(digest) => expected.insert(change.key.clone(), (change.revision, digest)),
                None => expected.remove(&change.key),
            };
        }
        if expected != *keys {
            return Err(format!("has other keys at revision {at} than what the other nodes tell leads to"));
        }
        Ok(())
    }
}

/// The history of a node that saw all of it.
pub(crate) fn whole(told: &[History], since: u64) -> Result<&[Change], String> {
    let whole = told.iter().find(|history| history.since == since);
    whole.map(|history| history.changes.as_slice()).ok_or("no node has seen all that happened: the experiment was too long".into())
}

/// `10` of `too old resource version: 5 (10)`.
pub(crate) fn oldest(message: &str) -> Option<u64> {
    message.rsplit_once('(')?.1.strip_suffix(')')?.parse().ok()
}

pub(crate) fn parse(node: &str, body: &str) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    for line in body.lines() {
        let event: Value = serde_json::from_str(line).map_err(|why| format!("{node}: {why}"))?;
        let metadata = &event["object"]["metadata"];
        let (Some(name), Some(revision)) = (metadata["name"].as_str(), revision(metadata)) else {
            return Err(format!("{node}'s history breaks off: {line}"));
        };
        // The cluster's CA comes into every namespace.
        if !name.starts_with("key-") {
            continue;
        }
        let digest = (event["type"] != "DELETED").then(|| digest(event["object"]["data"]["value"].as_str().unwrap_or_default()));
        changes.push(Change { revision, key: name.into(), digest });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, key: &str, digest: Option<u64>) -> Change {
        Change { revision, key: key.into(), digest }
    }

    #[test]
    fn a_node_that_took_a_snapshot_tells_the_rest() {
        let all = vec![change(2, "key-0", Some(1)), change(3, "key-1", Some(2)), change(5, "key-0", Some(3)), change(7, "key-1", None)];
        let known = |at: u64, keys: &[(&str, u64, u64)]| {
            Some(Listed { at, keys: keys.iter().map(|(k, r, d)| ((*k).to_string(), (*r, *d))).collect() })
        };
        let late = |listed, changes: &[Change]| History { since: 3, listed, changes: changes.to_vec() }.is_part_of(&all);
        assert_eq!(late(known(6, &[("key-0", 5, 3), ("key-1", 3, 2)]), &all[2..]), Ok(()));
        assert_eq!(late(known(7, &[("key-0", 5, 3)]), &all[2..]), Ok(()));
        assert!(late(known(7, &[("key-0", 5, 4)]), &all[2..]).is_err(), "another content");
        assert!(late(known(7, &[("key-0", 5, 3), ("key-1", 3, 2)]), &all[2..]).is_err(), "a key that is gone");
        assert!(late(None, &all[3..]).is_err(), "a change is missing");
        let told = [History { since: 3, listed: None, changes: Vec::new() }];
        assert!(whole(&told, 1).is_err(), "nobody saw all");
    }

    #[test]
    fn an_expired_watch_says_where_it_can_begin() {
        assert_eq!(oldest("too old resource version: 5 (10)"), Some(10));
        assert_eq!(oldest("gone"), None);
    }
}
