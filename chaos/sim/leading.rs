//! What a daemon does for the cluster while it leads: the real scheduler and the real controllers, and the reports that
//! tell them which nodes live.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use skein_lead::{Admission, Granted, Reports, Servers};
use skein_log::{Host, NodeId, hosted};
use skein_object::{Key, Record};
use skein_store::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::machine::Machine;
use crate::network::{Network, Running};

/// As often as the daemon's.
const INTERVAL: Duration = Duration::from_millis(200);

/// Each report of so many asks for a lease.
const GRANTS: u32 = 5;

/// As the daemon's.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Admits everything: there are no webhooks and no servers behind this API.
struct Nobody;

/// Starts on a node's host what makes a leader of it where it is elected; the node's reports come to what is returned.
pub(crate) fn start(
    host: &Arc<dyn Host>,
    (id, name): (NodeId, String),
    store: &Handle,
    (network, machine): (&Network, &Arc<Machine>),
) -> Reports {
    let reports = Reports::default();
    if !store.is_witness() {
        let leads = skein_lead::run(store.clone(), reports.clone(), Arc::new(Nobody), Arc::new(Nobody));
        tokio::spawn(hosted(Arc::clone(host), leads));
    }
    let sends = report((id, name), store.clone(), (reports.clone(), Arc::clone(machine)), network.clone());
    tokio::spawn(hosted(Arc::clone(host), sends));
    reports
}

async fn report((id, name): (NodeId, String), store: Handle, (own, machine): (Reports, Arc<Machine>), network: Network) {
    for tick in 0_u32.. {
        sleep(INTERVAL).await;
        let leadership = store.leadership();
        let asks = tick.is_multiple_of(GRANTS);
        match leadership.leader {
            _ if leadership.is_self => {
                own.heard(&name);
                let now = Instant::now();
                if let Some(granted) = asks.then(|| skein_lead::granted(&store, &name)).flatten() {
                    machine.prolong(now - granted.age);
                }
            }
            // It is on its way, whatever happens to the sender.
            Some(leader) => drop(tokio::spawn(arrive(network.clone(), (id, leader), (name.clone(), asks)))),
            None => {}
        }
    }
}

async fn arrive(network: Network, way: (NodeId, NodeId), (name, asks): (String, bool)) {
    let sent = Instant::now();
    if let Some(Running { process, store, reports, .. }) = network.tell(way).await {
        let hears = async move {
            reports.heard(&name);
            if let Some(granted) = asks.then(|| skein_lead::granted(&store, &name)).flatten() {
                tokio::spawn(answer(network, (way.1, way.0), granted, sent));
            }
        };
        tokio::spawn(hosted(process as Arc<dyn Host>, hears));
    }
}

/// The leader's answer to a report: the lease goes on, once the node knows what the leader knew.
async fn answer(network: Network, way: (NodeId, NodeId), granted: Granted, sent: Instant) {
    if let Some(Running { process, store, machine, .. }) = network.tell(way).await {
        let hears = async move {
            let mut view = store.watch();
            let known = view.wait_for(|view| view.applied >= granted.applied);
            if matches!(timeout(CATCH_UP, known).await, Ok(Ok(_))) {
                machine.prolong(sent - granted.age);
            }
        };
        tokio::spawn(hosted(process as Arc<dyn Host>, hears));
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
