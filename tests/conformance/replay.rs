//! Skein answers as Kubernetes does, whichever node is asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use skein_cluster_tests::Cluster;
use skein_conformance_tests::{Answer, NAMESPACE, Server, cases, differences, reduced};

const ANSWERS: &str = include_str!("answers.json");

/// Differences that are meant, and those that are still open.
const MEANT: &str = include_str!("meant.txt");
const OPEN: &str = include_str!("open.txt");

/// So many requests go to one node, then the next one is asked.
const ONE_NODE: usize = 50;

fn names(list: &'static str) -> BTreeSet<&'static str> {
    list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn answers_are_those_of_kubernetes() {
    let answers: BTreeMap<String, Answer> = serde_json::from_str(ANSWERS).expect("answers.json maps cases to answers");
    let (meant, open) = (names(MEANT), names(OPEN));
    let cluster = Cluster::start();
    let namespace = json!({"metadata": {"name": NAMESPACE}}).to_string();
    assert_eq!(cluster.request(1, "POST", "/api/v1/namespaces", Some(&namespace)).0, 201);
    let [authority, certificate, key] = cluster.credentials();
    let server = |node: usize| Server {
        url: format!("https://{}:6443", Cluster::address(node)),
        authority: &authority,
        certificate: &certificate,
        key: &key,
    };
    let cases = cases();
    let answered = cases.chunks(ONE_NODE).enumerate().flat_map(|(index, some)| server(index % 3 + 1).ask(some)).collect();
    let (mut new, mut mended) = (Vec::new(), Vec::new());
    for (case, answer) in cases.iter().zip(reduced(&cases, answered)) {
        let wanted = answers.get(&case.name).unwrap_or_else(|| panic!("{:?} has no recorded answer: make record", case.name));
        let differences = differences(wanted, &answer);
        let is_known = meant.contains(case.name.as_str()) || open.contains(case.name.as_str());
        match (differences.is_empty(), is_known) {
            (true, true) => mended.push(case.name.clone()),
            (false, false) => new.push(format!("{}\n    {}", case.name, differences.join("\n    "))),
            (true, false) | (false, true) => {}
        }
    }
    if let Ok(path) = std::env::var("SKEIN_DIFFERENCES") {
        std::fs::write(path, new.join("\n")).expect("the differences can be written");
    }
    let equal = cases.len() - meant.len() - open.len() - new.len();
    println!("{} cases: {equal} answered as Kubernetes does, {} differ on purpose, {} are open", cases.len(), meant.len(), open.len());
    assert!(mended.is_empty(), "these are answered right now; take them out of their list in tests/conformance:\n{}", mended.join("\n"));
    assert!(new.is_empty(), "{} cases are answered differently:\n{}", new.len(), new.join("\n"));
}
