//! How the links between nodes are, as a value: which are cut, and which are long or lossy. What is not named is whole.
//!
//! Kept in a file, so that a fault that one process made another can undo, and so that the relay follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::Node;

/// One way from one node, by its number, to another.
pub(crate) type Way = (usize, usize);

/// How frames fare on a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// How long each takes.
    pub delay_ms: u64,
    /// By how much more it may be.
    pub jitter_ms: u64,
    /// Of a thousand, how many are lost.
    pub lost_permille: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) cut: BTreeSet<Way>,
    pub(crate) shaped: BTreeMap<Way, Shape>,
}

/// The file: JSON has no keys that are pairs.
#[derive(Serialize, Deserialize)]
struct Kept {
    cut: BTreeSet<Way>,
    shaped: Vec<(Way, Shape)>,
}

// === impl Shape ===

impl Shape {
    fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// How long a frame takes, with so much of the jitter.
    pub(crate) fn delay(&self, jitter: f64) -> Duration {
        Duration::from_millis(self.delay_ms) + Duration::from_millis(self.jitter_ms).mul_f64(jitter)
    }
}

// === impl Links ===

impl Links {
    /// What the file says; all is whole where there is none.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let Ok(text) = std::fs::read(file) else { return Ok(Self::default()) };
        let kept: Kept = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
        Ok(Self { cut: kept.cut, shaped: kept.shaped.into_iter().collect() })
    }

    /// Written in one step: the relay never reads half of it.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let kept = Kept { cut: self.cut.clone(), shaped: self.shaped.iter().map(|(way, shape)| (*way, *shape)).collect() };
        let draft = file.with_extension("new");
        std::fs::write(&draft, serde_json::to_vec(&kept)?).with_context(|| format!("cannot write {}", draft.display()))?;
        std::fs::rename(&draft, file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Cuts all ways between groups, and no others.
    pub(crate) fn partition(&mut self, groups: &[Vec<Node>]) {
        self.cut = between(groups);
    }

    /// Cuts the ways from these to a node, and no others.
    pub(crate) fn deafen(&mut self, node: &Node, others: &[Node]) {
        self.cut = others.iter().map(|other| (other.index, node.index)).collect();
    }

    /// Mends what is cut.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Gives all ways between groups this shape.
    pub(crate) fn shape(&mut self, groups: &[Vec<Node>], shape: Shape) {
        for way in between(groups) {
            match shape.is_whole() {
                true => drop(self.shaped.remove(&way)),
                false => drop(self.shaped.insert(way, shape)),
            }
        }
    }

    /// What the kernel must not carry.
    pub(crate) fn taken(&self) -> BTreeSet<Way> {
        self.cut.iter().chain(self.shaped.keys()).copied().collect()
    }

    /// What the relay carries, from one node.
    pub(crate) fn carried(&self, from: usize) -> Vec<(usize, Shape)> {
        let ways = self.shaped.range((from, 0)..=(from, usize::MAX));
        ways.filter(|(way, _)| !self.cut.contains(way)).map(|((_, to), shape)| (*to, *shape)).collect()
    }
}

fn between(groups: &[Vec<Node>]) -> BTreeSet<Way> {
    let mut ways = BTreeSet::new();
    for (index, group) in groups.iter().enumerate() {
        for other in groups.iter().enumerate().filter(|(i, _)| *i != index).flat_map(|(_, group)| group) {
            ways.extend(group.iter().map(|node| (node.index, other.index)));
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(groups: &[&[usize]]) -> Vec<Vec<Node>> {
        groups.iter().map(|group| group.iter().map(|index| Node::new(*index)).collect()).collect()
    }

    #[test]
    fn a_cut_takes_precedence_and_leaves_the_shape() {
        let far = Shape { delay_ms: 75, jitter_ms: 5, lost_permille: 10 };
        let mut links = Links::default();
        links.shape(&groups(&[&[1], &[2], &[3]]), far);
        assert_eq!(links.carried(1), [(2, far), (3, far)]);
        links.partition(&groups(&[&[1, 2], &[3]]));
        assert_eq!(links.carried(1), [(2, far)]);
        assert_eq!(links.taken().len(), 6);
        links.deafen(&Node::new(2), &groups(&[&[1, 3]])[0]);
        assert_eq!((links.carried(1), links.carried(2)), (vec![(3, far)], vec![(1, far), (3, far)]));
        links.mend();
        assert_eq!(links.carried(3), [(1, far), (2, far)]);
        links.shape(&groups(&[&[1], &[2, 3]]), Shape::default());
        assert_eq!(links.taken(), [(2, 3), (3, 2)].into());
    }

    #[test]
    fn links_are_kept_in_a_file() {
        let file = std::env::temp_dir().join(format!("skein-links-{}", std::process::id()));
        assert_eq!(Links::read(&file).ok(), Some(Links::default()));
        let mut links = Links::default();
        links.shape(&groups(&[&[1], &[2]]), Shape { delay_ms: 1, ..Shape::default() });
        links.partition(&groups(&[&[3], &[2]]));
        links.write(&file).expect("a file in the temporary directory");
        assert_eq!(Links::read(&file).ok(), Some(links));
        std::fs::remove_file(&file).expect("it was there");
    }
}
