//! What a daemon does for the cluster while it leads: the real scheduler and the real controllers, and the reports that
//! tell them which nodes live.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use skein_lead::{Admission, Reports, Servers};
use skein_log::{Host, NodeId, hosted};
use skein_object::{Key, Record};
use skein_store::Handle;
use tokio::time::sleep;

use crate::network::Network;

/// As often as the daemon's.
const INTERVAL: Duration = Duration::from_millis(100);

/// Admits everything: there are no webhooks and no servers behind this API.
struct Nobody;

/// Starts on a node's host what makes a leader of it where it is elected; the node's reports come to what is returned.
pub(crate) fn start(host: &Arc<dyn Host>, (id, name): (NodeId, String), store: &Handle, network: &Network) -> Reports {
    let reports = Reports::default();
    let leads = skein_lead::run(store.clone(), reports.clone(), Arc::new(Nobody), Arc::new(Nobody));
    tokio::spawn(hosted(Arc::clone(host), leads));
    let sends = report((id, name), store.clone(), reports.clone(), network.clone());
    tokio::spawn(hosted(Arc::clone(host), sends));
    reports
}

async fn report((id, name): (NodeId, String), store: Handle, own: Reports, network: Network) {
    loop {
        sleep(INTERVAL).await;
        let leadership = store.leadership();
        match leadership.leader {
            _ if leadership.is_self => own.heard(&name),
            // It is on its way, whatever happens to the sender.
            Some(leader) => drop(tokio::spawn(arrive(network.clone(), (id, leader), name.clone()))),
            None => {}
        }
    }
}

async fn arrive(network: Network, way: (NodeId, NodeId), name: String) {
    if let Some(node) = network.tell(way).await {
        let hears = async move { node.reports.heard(&name) };
        tokio::spawn(hosted(node.process as Arc<dyn Host>, hears));
    }
}

#[async_trait]
impl Admission for Nobody {
    async fn admit(&self, _: &str, _: &Key, _: &Record) -> Result<Option<Record>, String> {
        Ok(None)
    }
}

#[async_trait]
impl Servers for Nobody {
    async fn get(&self, _: &str, _: (&str, &[&str]), path: &str) -> Result<Value, String> {
        Err(format!("nobody answers {path}"))
    }
}
