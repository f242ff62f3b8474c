//! A table of nftables as a value: what it should hold, and the script that leads there from what it held last.
//!
//! ```text
//!   Rules (pure, from whoever plans) ─▶ script: what differs ─▶ nft -f -, one transaction
//! ```
//!
//! Packets never meet half of a change. What stays the same costs nothing: a chain or an element that is as it was is not
//! mentioned.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// Everything in a table that changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// A chain's rules, by its name.
    pub chains: BTreeMap<String, Vec<String>>,
    /// The type of each set that the rules bring with them, as in `ipv4_addr`, and what else is said of it. A set stays what
    /// it was made as: another kind needs another name.
    pub sets: BTreeMap<String, Cow<'static, str>>,
    /// By map or set, its elements: key and, in a map, verdict.
    pub elements: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run nft (Debian package nftables): {0}")]
    Program(std::io::Error),
    #[error("nft: {0}")]
    Refused(String),
}

/// A node's table, as it was written last.
pub struct Table {
    /// `skein` in `table ip skein`.
    name: &'static str,
    /// The body of the table: what is always there.
    base: &'static str,
    applied: Option<Rules>,
}

// === impl Table ===

impl Table {
    pub fn new(name: &'static str, base: &'static str) -> Self {
        Self { name, base, applied: None }
    }

    /// Brings the table to what is wanted. The first time, and after a failure, it is written anew as a whole.
    pub fn apply(&mut self, wanted: Rules) -> Result<(), Error> {
        let text = self.script(&wanted);
        if text.is_empty() {
            return Ok(());
        }
        self.applied = None;
        nft(&text)?;
        self.applied = Some(wanted);
        Ok(())
    }

    fn script(&self, wanted: &Rules) -> String {
        match &self.applied {
            Some(applied) => script(self.name, applied, wanted),
            None => {
                let name = self.name;
                let base = format!("add table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n{}}}\n", self.base);
                base + &script(name, &Rules::default(), wanted)
            }
        }
    }
}

// === impl Rules ===

impl Rules {
    /// Adds an element to a map or set; a set's verdict is empty.
    pub fn element(&mut self, of: &str, key: String, verdict: String) {
        self.elements.entry(of.into()).or_default().insert(key, verdict);
    }
}

/// The script from one set of rules to another; empty when they are the same.
pub fn script(table: &str, from: &Rules, to: &Rules) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    // Sets and chains before what names them.
    for (name, kind) in to.sets.iter().filter(|(name, kind)| from.sets.get(*name) != Some(*kind)) {
        say(format!("add set ip {table} {name} {{ type {kind}; }}"));
    }
    let changed: Vec<_> = to.chains.iter().filter(|(name, lines)| from.chains.get(*name) != Some(*lines)).collect();
    changed.iter().for_each(|(name, _)| say(format!("add chain ip {table} {name}")));
    for (name, lines) in changed {
        say(format!("flush chain ip {table} {name}"));
        lines.iter().for_each(|line| say(format!("add rule ip {table} {name} {line}")));
    }
    let none = BTreeMap::new();
    let names: std::collections::BTreeSet<&String> = from.elements.keys().chain(to.elements.keys()).collect();
    for name in names {
        let (old, new) = (from.elements.get(name).unwrap_or(&none), to.elements.get(name).unwrap_or(&none));
        if from.sets.contains_key(name) && !to.sets.contains_key(name) {
            continue;
        }
        for (key, _) in old.iter().filter(|(key, verdict)| new.get(*key) != Some(*verdict)) {
            say(format!("delete element ip {table} {name} {{ {key} }}"));
        }
        for (key, verdict) in new.iter().filter(|(key, verdict)| old.get(*key) != Some(*verdict)) {
            let verdict = if verdict.is_empty() { String::new() } else { format!(" : {verdict}") };
            say(format!("add element ip {table} {name} {{ {key}{verdict} }}"));
        }
    }
    // A chain can go only when no element leads to it any more, nor another chain; a set when no chain names it.
    let gone: Vec<&String> = from.chains.keys().filter(|name| !to.chains.contains_key(*name)).collect();
    gone.iter().for_each(|name| say(format!("flush chain ip {table} {name}")));
    gone.iter().for_each(|name| say(format!("delete chain ip {table} {name}")));
    for name in from.sets.keys().filter(|name| !to.sets.contains_key(*name)) {
        say(format!("delete set ip {table} {name}"));
    }
    text
}

fn nft(text: &str) -> Result<(), Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Program)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(Error::Program)?;
    }
    let output = child.wait_with_output().map_err(Error::Program)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Refused(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_string()))
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

    #[test]
    fn says_only_what_differs() {
        let before = rules("ip saddr @s accept", &["10.0.0.1"]);
        assert_eq!(script("t", &before, &before), "");
        let after = rules("ip saddr @s accept", &["10.0.0.2"]);
        let expected = "delete element ip t s { 10.0.0.1 }\nadd element ip t s { 10.0.0.2 }\n";
        assert_eq!(script("t", &before, &after), expected);
        assert_eq!(script("t", &before, &rules("drop", &["10.0.0.1"])), "add chain ip t c\nflush chain ip t c\nadd rule ip t c drop\n");
        assert_eq!(script("t", &before, &Rules::default()), "flush chain ip t c\ndelete chain ip t c\ndelete set ip t s\n");
    }

    #[test]
    fn a_new_table_begins_with_what_is_always_there() {
        let table = Table::new("t", "  chain c {}\n");
        let text = table.script(&Rules::default());
        assert_eq!(text, "add table ip t\ndelete table ip t\ntable ip t {\n  chain c {}\n}\n");
    }
}
