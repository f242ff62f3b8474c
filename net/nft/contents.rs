//! What a table is to hold, in parts, and the script from what it was to hold before. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{Parts, Rules};

#[derive(Default)]
pub(crate) struct Contents {
    parts: BTreeMap<Arc<str>, Rules>,
    /// By set or map and by element, the parts that ask for it, in order.
    holders: BTreeMap<String, BTreeMap<String, Vec<Arc<str>>>>,
}

/// A part as it was and as it is.
struct Change {
    part: Arc<str>,
    before: Rules,
    after: Rules,
}

/// A set or map, and a key in it.
type Element = (String, String);

// === impl Contents ===

impl Contents {
    /// Takes these parts for what they are now; the script says what that changes, and is empty when that is nothing.
    pub(crate) fn change(&mut self, table: &str, wanted: Parts) -> String {
        let changes: Vec<Change> = wanted.into_iter().filter_map(|(part, after)| self.differs(part, after)).collect();
        let mut elements: BTreeMap<Element, Option<String>> = BTreeMap::new();
        for change in &changes {
            for (of, key) in change.elements() {
                elements.entry((of.clone(), key.clone())).or_insert_with(|| self.verdict(of, key).cloned());
            }
        }
        changes.iter().for_each(|change| self.hold(change));
        let mut script = Script { table, text: String::new() };
        script.begin(&changes);
        let gone: BTreeSet<&String> = changes.iter().flat_map(Change::sets_gone).collect();
        let elements = elements.iter().filter(|((of, _), _)| !gone.contains(of));
        let turned: Vec<_> = elements.map(|(element, before)| (element, before.as_ref(), self.verdict(&element.0, &element.1))).collect();
        script.elements(turned.into_iter().filter(|(_, before, after)| before != after));
        script.end(&changes);
        script.text
    }

    /// The script that makes all of this in an empty table.
    pub(crate) fn script(&self, table: &str) -> String {
        Self::default().change(table, self.parts.iter().map(|(part, rules)| (part.to_string(), rules.clone())).collect())
    }

    fn differs(&self, part: String, after: Rules) -> Option<Change> {
        let (part, before) = match self.parts.get_key_value(part.as_str()) {
            Some((part, before)) => (Arc::clone(part), before.clone()),
            None => (part.into(), Rules::default()),
        };
        (before != after).then_some(Change { part, before, after })
    }

    /// Of several parts that want an element, the first says what it leads to.
    fn verdict(&self, of: &str, key: &str) -> Option<&String> {
        let holder = self.holders.get(of)?.get(key)?.first()?;
        self.parts.get(holder)?.verdict(of, key)
    }

    fn hold(&mut self, change: &Change) {
        for (of, key) in change.elements() {
            let keys = self.holders.entry(of.clone()).or_default();
            let parts = keys.entry(key.clone()).or_default();
            parts.retain(|part| *part != change.part);
            if change.after.verdict(of, key).is_some() {
                parts.insert(parts.partition_point(|part| *part < change.part), Arc::clone(&change.part));
            } else if parts.is_empty() {
                keys.remove(key);
            }
        }
        match change.after == Rules::default() {
            true => drop(self.parts.remove(&change.part)),
            false => drop(self.parts.insert(Arc::clone(&change.part), change.after.clone())),
        }
    }
}

// === impl Change ===

impl Change {
    /// The elements that come, go, or lead elsewhere.
    fn elements(&self) -> impl Iterator<Item = (&String, &String)> {
        let gone = all(&self.before).filter(|(of, key, verdict)| self.after.verdict(of, key) != Some(verdict));
        let come = all(&self.after).filter(|(of, key, verdict)| self.before.verdict(of, key) != Some(verdict));
        gone.chain(come).map(|(of, key, _)| (of, key))
    }

    fn sets_gone(&self) -> impl Iterator<Item = &String> {
        self.before.sets.keys().filter(|name| !self.after.sets.contains_key(*name))
    }

    fn chains_gone(&self) -> impl Iterator<Item = &String> {
        self.before.chains.keys().filter(|name| !self.after.chains.contains_key(*name))
    }

    fn chains_changed(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.after.chains.iter().filter(|(name, lines)| self.before.chains.get(*name) != Some(*lines))
    }
}

fn all(rules: &Rules) -> impl Iterator<Item = (&String, &String, &String)> {
    rules.elements.iter().flat_map(|(of, elements)| elements.iter().map(move |(key, verdict)| (of, key, verdict)))
}

/// A script for nft, as it grows.
struct Script<'a> {
    table: &'a str,
    text: String,
}

// === impl Script ===

impl Script<'_> {
    fn say(&mut self, action: &str, kind: &str, what: &str) {
        self.text.extend([action, " ", kind, " ip ", self.table, " ", what, "\n"]);
    }

    /// Sets and chains before what names them.
    fn begin(&mut self, changes: &[Change]) {
        for change in changes {
            for (name, kind) in change.after.sets.iter().filter(|(name, kind)| change.before.sets.get(*name) != Some(*kind)) {
                self.say("add", "set", &format!("{name} {{ type {kind}; }}"));
            }
            change.chains_changed().for_each(|(name, _)| self.say("add", "chain", name));
        }
        for (name, lines) in changes.iter().flat_map(Change::chains_changed) {
            self.say("flush", "chain", name);
            lines.iter().for_each(|line| self.say("add", "rule", &format!("{name} {line}")));
        }
    }

    /// Each with what it led to before and leads to now.
    fn elements<'a>(&mut self, turned: impl Iterator<Item = (&'a Element, Option<&'a String>, Option<&'a String>)> + Clone) {
        for ((of, key), ..) in turned.clone().filter(|(_, before, _)| before.is_some()) {
            self.say("delete", "element", &format!("{of} {{ {key} }}"));
        }
        for ((of, key), verdict) in turned.filter_map(|(element, _, after)| Some((element, after?))) {
            let verdict = if verdict.is_empty() { String::new() } else { format!(" : {verdict}") };
            self.say("add", "element", &format!("{of} {{ {key}{verdict} }}"));
        }
    }

    /// A chain can go only when no element leads to it any more, nor another chain; a set when no chain names it.
    fn end(&mut self, changes: &[Change]) {
        changes.iter().flat_map(Change::chains_gone).for_each(|name| self.say("flush", "chain", name));
        changes.iter().flat_map(Change::chains_gone).for_each(|name| self.say("delete", "chain", name));
        changes.iter().flat_map(Change::sets_gone).for_each(|name| self.say("delete", "set", name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(chain: &str, set: &[&str]) -> Rules {
        let mut rules = Rules::default();
        rules.chains.insert("c".into(), vec![chain.into()]);
        rules.sets.insert("s".into(), "ipv4_addr".into());
        set.iter().for_each(|key| rules.element("s", (*key).into(), String::new()));
        rules
    }

    fn element(key: &str, verdict: &str) -> Rules {
        let mut rules = Rules::default();
        rules.element("m", key.into(), verdict.into());
        rules
    }

    fn check(from: &[(&str, Rules)], to: &[(&str, Rules)], script: &str) {
        let parts = |of: &[(&str, Rules)]| of.iter().map(|(name, rules)| ((*name).into(), rules.clone())).collect();
        let mut contents = Contents::default();
        contents.change("t", parts(from));
        assert_eq!(contents.change("t", parts(to)), script);
    }

    #[test]
    fn says_only_what_differs() {
        let before = [("", rules("ip saddr @s accept", &["10.0.0.1"]))];
        check(&before, &before, "");
        let after = rules("ip saddr @s accept", &["10.0.0.2"]);
        check(&before, &[("", after)], "delete element ip t s { 10.0.0.1 }\nadd element ip t s { 10.0.0.2 }\n");
        check(&before, &[("", rules("drop", &["10.0.0.1"]))], "add chain ip t c\nflush chain ip t c\nadd rule ip t c drop\n");
        check(&before, &[("", Rules::default())], "flush chain ip t c\ndelete chain ip t c\ndelete set ip t s\n");
        check(&before, &[("other", Rules::default())], "");
    }

    #[test]
    fn an_element_goes_with_the_last_part_that_has_it() {
        let both = [("a", element("k", "goto a")), ("b", element("k", "goto b"))];
        check(&both, &[("b", Rules::default())], "");
        check(&both, &[("a", Rules::default())], "delete element ip t m { k }\nadd element ip t m { k : goto b }\n");
        check(&both, &[("a", Rules::default()), ("b", Rules::default())], "delete element ip t m { k }\n");
        check(&both[1..], &both[..1], "delete element ip t m { k }\nadd element ip t m { k : goto a }\n");
    }

    #[test]
    fn an_element_moves_from_part_to_part() {
        let to = [("a", element("k", "goto a")), ("b", Rules::default())];
        check(&[("b", element("k", "goto b"))], &to, "delete element ip t m { k }\nadd element ip t m { k : goto a }\n");
    }
}
