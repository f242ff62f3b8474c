//! Keeps this node's NetworkPolicy rules true, from the local replica and from what the kubelet knows of its own Pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skein_kubelet::{Addresses, Known};
use skein_nft::{Rules, Table};
use skein_object::Key;
use skein_object::selector::Labels;
use skein_pod::policy::{Around, BASE, Member, plan};
use skein_store::Handle;

use crate::kept::Kept;
use crate::rules;

static NO_LABELS: Labels = Labels::new();

struct Objects {
    policies: Kept<NetworkPolicy>,
    pods: Kept<Pod>,
    namespaces: Kept<Namespace>,
}

// === impl Objects ===

impl Objects {
    fn observe(&mut self, store: &Handle) -> bool {
        let policies = !self.policies.observe(store).is_empty();
        // Pods and namespaces matter only where there is a policy.
        let others = !self.pods.observe(store).is_empty() | !self.namespaces.observe(store).is_empty();
        policies | (others && !self.policies.objects.is_empty())
    }

    fn rules(&self, own: &Known) -> Rules {
        let members = self.pods.objects.iter().filter_map(|(key, pod)| member(key, pod, own)).collect();
        let labels = |(key, namespace): (&'_ Key, &'_ Namespace)| (key.clone(), namespace.metadata.labels.clone().unwrap_or_default());
        let namespaces: BTreeMap<Key, Labels> = self.namespaces.objects.iter().map(labels).collect();
        let policies = self.policies.objects.values().collect();
        plan(&Around { members, namespaces: namespaces.iter().map(|(key, labels)| (key.name(), labels)).collect(), policies })
    }
}

const POLICIES: &str = "networkpolicies.networking.k8s.io";

/// A Pod with an address of its own: this node's as the kubelet knows them, others as they are reported.
fn member<'a>(key: &'a Key, pod: &'a Pod, own: &Known) -> Option<Member<'a>> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || ended && !own.contains_key(key) {
        return None;
    }
    let told = || status.and_then(|s| s.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let address = own.get(key).map(|(_, address)| *address).or_else(told)?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.as_deref()?, port.protocol.as_deref().unwrap_or("TCP"), number))
    });
    Some(Member {
        namespace: key.namespace(),
        name: key.name(),
        labels: pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS),
        address,
        is_local: own.contains_key(key),
        ports: ports.collect(),
    })
}

pub(crate) async fn run(store: Handle, addresses: Addresses) {
    let view = store.local();
    let mut objects =
        Objects { policies: Kept::new(POLICIES, &view), pods: Kept::new("pods", &view), namespaces: Kept::new("namespaces", &view) };
    let mut own = addresses.watch();
    let mut table = Table::new("skein-policy", BASE);
    let mut changes = store.subscribe(&[POLICIES, "pods", "namespaces"]);
    let mut stale = true;
    loop {
        stale |= objects.observe(&store);
        stale |= own.has_changed().unwrap_or(false) && !objects.policies.objects.is_empty();
        if stale {
            let rules = objects.rules(&own.borrow_and_update());
            let Some((back, holds)) = rules::apply(table, rules, "network policies do not hold on this node").await else { return };
            table = back;
            stale = !holds;
            if stale {
                continue;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = own.changed() => if changed.is_err() { return },
        }
    }
}
