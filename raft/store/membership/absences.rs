//! How nodes fare, by what the leader hears of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Health;

/// A voter may be away for so long before another votes instead.
pub const GRACE_MS: u64 = 10_000;

/// Who falls silent for longer than this so often within the window flaps, and is well again when the window has passed.
const ABSENCE_MS: u64 = 1_000;
const ABSENCES: usize = 3;
const WINDOW: Duration = Duration::from_secs(600);

/// When each node went away, as far as this leader has seen it.
pub struct Absences {
    grace_ms: u64,
    away: BTreeSet<String>,
    since: BTreeMap<String, VecDeque<Instant>>,
}

// === impl Absences ===

impl Default for Absences {
    fn default() -> Self {
        Self::with_grace(GRACE_MS)
    }
}

impl Absences {
    /// A node that is away for so long is not waited for.
    pub fn with_grace(grace_ms: u64) -> Self {
        Self { grace_ms, away: BTreeSet::new(), since: BTreeMap::new() }
    }

    pub fn observe(&mut self, silent_ms: &BTreeMap<String, u64>, now: Instant) {
        for (node, silent) in silent_ms {
            if *silent < ABSENCE_MS {
                self.away.remove(node);
            } else if self.away.insert(node.clone()) {
                self.since.entry(node.clone()).or_default().push_back(now);
            }
        }
        for times in self.since.values_mut() {
            times.retain(|time| now.duration_since(*time) < WINDOW);
        }
    }

    pub fn health(&self, node: &str, silent_ms: u64) -> Health {
        if silent_ms >= self.grace_ms {
            Health::Silent
        } else if self.since.get(node).is_some_and(|times| times.len() >= ABSENCES) {
            Health::Flapping
        } else {
            Health::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_is_away_from_who_flaps() {
        let begin = Instant::now();
        let mut absences = Absences::default();
        let mut observe = |silent: u64, second: u64| {
            let silent_ms = BTreeMap::from([("a".to_string(), silent)]);
            absences.observe(&silent_ms, begin + Duration::from_secs(second));
            absences.health("a", silent)
        };
        assert_eq!(observe(0, 0), Health::Good);
        assert_eq!(observe(2_000, 10), Health::Good);
        assert_eq!(observe(11_000, 20), Health::Silent);
        assert_eq!(observe(0, 30), Health::Good);
        assert_eq!(observe(1_500, 40), Health::Good);
        assert_eq!(observe(0, 50), Health::Good);
        assert_eq!(observe(1_500, 60), Health::Flapping);
        assert_eq!(observe(0, 70), Health::Flapping);
        // Ten minutes after the first absence it is forgotten.
        assert_eq!(observe(0, 620), Health::Good);
    }
}
