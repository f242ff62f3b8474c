//! The routes to other nodes' Pod ranges.

use std::collections::BTreeMap;

use crate::{Error, ip};

/// Range → the address of its node.
pub type Routes = BTreeMap<String, String>;

/// Brings the node's routes from `current` to `wanted`.
pub fn update(current: &Routes, wanted: &Routes) -> Result<(), Error> {
    let lines = plan(current, wanted);
    if lines.is_empty() { Ok(()) } else { ip(None, &lines) }
}

fn plan(current: &Routes, wanted: &Routes) -> Vec<String> {
    let gone = current.keys().filter(|range| !wanted.contains_key(*range)).map(|range| format!("route del {range}"));
    let new = wanted
        .iter()
        .filter(|(range, via)| current.get(*range) != Some(via))
        .map(|(range, via)| format!("route replace {range} via {via}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_only_what_differs() {
        let routes = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_string(), (*b).to_string())).collect::<Routes>();
        let current = routes(&[("10.244.1.0/24", "198.18.0.12"), ("10.244.2.0/24", "198.18.0.13")]);
        let wanted = routes(&[("10.244.1.0/24", "198.18.0.12"), ("10.244.3.0/24", "198.18.0.14")]);
        assert_eq!(plan(&current, &wanted), ["route del 10.244.2.0/24", "route replace 10.244.3.0/24 via 198.18.0.14"]);
    }
}
