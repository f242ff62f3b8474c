//! Keeps the node's ports that lead to its Pods true, from a Pod's address on until it has none.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use skein_kubelet::Addresses;
use skein_service::host_ports::{plan, table};
use skein_store::Handle;
use tracing::warn;

use crate::rules;

/// Packets from a loopback address may leave it for a Pod; `host_ports` keeps those of others out.
const ROUTE_LOOPBACK: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

pub(crate) async fn run(store: Handle, addresses: Addresses) {
    let mut own = addresses.watch();
    let mut table = table();
    let mut open = false;
    loop {
        let known = own.borrow_and_update().clone();
        let state = store.local().state;
        let pod = |key| state.get(key).and_then(|entry| entry.record.typed::<Pod>(entry.revision));
        let pods: Vec<(Pod, Ipv4Addr)> = known.iter().filter_map(|(key, (_, address))| Some((pod(key)?, *address))).collect();
        let wanted = plan(pods.iter().map(|(pod, address)| (pod, *address)));
        if !open && !wanted.chains.is_empty() {
            open = true;
            if let Err(why) = std::fs::write(ROUTE_LOOPBACK, "1") {
                warn!(%why, "host ports cannot be reached by way of 127.0.0.1 (net.ipv4.conf.all.route_localnet)");
            }
        }
        let Some((back, holds)) = rules::apply(table, wanted, "host ports do not work on this node").await else { return };
        table = back;
        if holds && own.changed().await.is_err() {
            return;
        }
    }
}
