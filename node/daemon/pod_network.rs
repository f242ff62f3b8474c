//! Keeps the ways to other nodes' Pods true, and what Pods send to the world outside under their node's address.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use skein_pod::routes::{self, Link, Peers, Routes, Tunnels};
use skein_pod::{Error, egress};
use skein_state::State;
use skein_store::Handle;
use tokio::time::timeout;
use tracing::warn;

use crate::rules;

/// How often it is seen to that the node has the links that it had.
const INTERVAL: Duration = Duration::from_secs(30);

/// After `ip` has refused.
const RETRY: Duration = Duration::from_secs(1);

/// The node's own Pod range, and the other nodes.
type Nodes = (String, Peers);

fn nodes(state: &State, name: &str) -> Option<Nodes> {
    let mut own = None;
    let mut peers = Peers::new();
    for (key, entry) in state.range("nodes/", None) {
        let Some(node) = entry.record.typed::<Node>(entry.revision) else { continue };
        let Some(range) = node.spec.and_then(|spec| spec.pod_cidr) else { continue };
        if key.name() == name {
            own = Some(range);
            continue;
        }
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let address = addresses.into_iter().find(|address| address.type_ == "InternalIP");
        if let Some(address) = address.and_then(|address| address.address.parse::<Ipv4Addr>().ok()) {
            peers.insert(range, address);
        }
    }
    Some((own?, peers))
}

/// The routes that are there now.
fn bring(current: &Routes, (own, peers): &Nodes, tunnels: Tunnels) -> Result<Routes, Error> {
    let links: Vec<Link> = routes::links()?;
    let wanted = routes::ways(peers, &links, tunnels);
    routes::update(current, &wanted, own, &links)?;
    Ok(wanted)
}

pub(crate) async fn run(store: Handle, name: String, tunnels: Tunnels) {
    let mut changes = store.subscribe(&["nodes"]);
    let mut table = egress::table();
    let mut current = Routes::new();
    let mut known: Option<Nodes> = None;
    loop {
        let wanted = nodes(&store.local().state, &name);
        if wanted.is_some() && wanted != known {
            let (before, nodes) = (current.clone(), wanted.clone().unwrap_or_default());
            let own = nodes.0.clone();
            match tokio::task::spawn_blocking(move || bring(&before, &nodes, tunnels)).await {
                Ok(Ok(routes)) => (current, known) = (routes, wanted),
                Ok(Err(why)) => {
                    warn!(%why, "cannot set the routes to other nodes' Pods");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(_) => return,
            }
            let rules = egress::plan(&own, &current);
            let Some((back, holds)) = rules::apply(table, rules, "Pods cannot reach what is outside the cluster").await else { return };
            table = back;
            if !holds {
                known = None;
                continue;
            }
        }
        match timeout(INTERVAL, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            // Links may be others by now.
            Err(_) => known = None,
        }
    }
}
