//! A table of nftables as a value: what it should hold, and the script that leads there from what it held last.
//!
//! ```text
//!   Parts (pure, from whoever plans) ─▶ script: what differs ─▶ nft -f -, one transaction
//! ```
//!
//! Packets never meet half of a change. What stays the same costs nothing: a part that is as it was need not be planned, a
//! chain or an element that is as it was is not mentioned.

mod contents;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use contents::Contents;

/// Parts of a table by name, each with all that it is to hold from now on; without rules it goes. A part that is not named
/// stays.
pub type Parts = BTreeMap<String, Rules>;

/// What is planned at once: a part of a table, or all of it. Chains and sets are its own; an element may be in several parts.
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

/// A node's table.
pub struct Table {
    /// `skein` in `table ip skein`.
    name: &'static str,
    /// The body of the table: what is always there.
    base: &'static str,
    contents: Contents,
    /// Whether the kernel has the contents.
    holds: bool,
}

// === impl Table ===

impl Table {
    pub fn new(name: &'static str, base: &'static str) -> Self {
        Self { name, base, contents: Contents::default(), holds: false }
    }

    /// Brings these parts to what is wanted. The first time, and after a failure, the table is written anew as a whole.
    pub fn apply(&mut self, wanted: impl Into<Parts>) -> Result<(), Error> {
        let text = self.script(wanted.into());
        if text.is_empty() {
            return Ok(());
        }
        self.holds = false;
        nft(&text)?;
        self.holds = true;
        Ok(())
    }

    /// What leads from what was wanted before to what is wanted now.
    fn script(&mut self, wanted: Parts) -> String {
        let difference = self.contents.change(self.name, wanted);
        if self.holds {
            return difference;
        }
        let name = self.name;
        let base = format!("add table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n{}}}\n", self.base);
        base + &self.contents.script(name)
    }
}

// === impl Rules ===

impl Rules {
    /// Adds an element to a map or set; a set's verdict is empty.
    pub fn element(&mut self, of: &str, key: String, verdict: String) {
        self.elements.entry(of.into()).or_default().insert(key, verdict);
    }

    fn verdict(&self, of: &str, key: &str) -> Option<&String> {
        self.elements.get(of)?.get(key)
    }
}

impl From<Rules> for Parts {
    /// A table that is planned as a whole has one part, without a name.
    fn from(rules: Rules) -> Self {
        Self::from([(String::new(), rules)])
    }
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

    #[test]
    fn a_new_table_begins_with_what_is_always_there() {
        let mut table = Table::new("t", "  chain c {}\n");
        let text = table.script(Rules::default().into());
        assert_eq!(text, "add table ip t\ndelete table ip t\ntable ip t {\n  chain c {}\n}\n");
    }

    #[test]
    fn a_table_that_was_not_written_is_written_whole() {
        let mut table = Table::new("t", "");
        let part = |chain: &str| {
            let mut rules = Rules::default();
            rules.chains.insert(chain.into(), vec!["drop".into()]);
            rules
        };
        table.script(Parts::from([("a".into(), part("a"))]));
        let text = table.script(Parts::from([("b".into(), part("b"))]));
        assert!(text.contains("add rule ip t a drop\n") && text.contains("add rule ip t b drop\n"), "{text}");
        table.holds = true;
        assert_eq!(table.script(Parts::from([("b".into(), part("b"))])), "");
    }
}
