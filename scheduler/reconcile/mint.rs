//! What controllers need beside the snapshot and must not make themselves: the time, ids, and how nodes fare.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use skein_object::Key;

use crate::adapters::{Adapters, Question};
use crate::autoscaler::History;
use crate::taint_eviction::Waits;
use crate::{Liveness, Usage};

/// Supplied by the caller for each pass. Two passes with equal mints over equal snapshots give equal commands.
pub struct Mint {
    pub now: Timestamp,
    pub liveness: Liveness,
    /// What Pods use.
    pub usage: Usage,
    /// What adapters have answered, and what they must be asked.
    pub adapters: Adapters,
    pub questions: BTreeSet<Question>,
    /// What controllers remember from one pass to the next.
    pub memory: Memory,
    seed: u64,
}

/// What a leader's controllers remember and may forget: a new leader begins without it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(crate) autoscalers: BTreeMap<Key, History>,
    /// By node.
    pub(crate) taints: BTreeMap<Key, Waits>,
}

impl Mint {
    pub fn new(now: Timestamp, seed: u64, liveness: Liveness) -> Self {
        Self {
            now,
            liveness,
            usage: Usage::default(),
            adapters: Adapters::default(),
            questions: BTreeSet::new(),
            memory: Memory::default(),
            seed,
        }
    }

    /// A random (version 4) UUID from the seed.
    pub fn uid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            0x8000 | ((b >> 48) & 0x3fff),
            b & 0xffff_ffff_ffff
        )
    }

    /// Five characters for a generated name.
    pub fn suffix(&mut self) -> String {
        skein_object::meta::suffix(|| self.next())
    }

    pub fn time(&self) -> String {
        skein_object::meta::time(self.now)
    }

    pub fn seconds_since(&self, instant: &str) -> Option<i64> {
        Some(self.now.as_second() - instant.parse::<Timestamp>().ok()?.as_second())
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
