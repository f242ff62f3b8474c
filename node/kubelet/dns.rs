//! A Pod's `resolv.conf`: from its `dnsPolicy` and `dnsConfig` (`pkg/kubelet/network/dns`). Pure, but for the node's own.

use k8s_openapi::api::core::v1::Pod;
use skein_cri::DnsConfig;

/// The zone of the cluster's names.
pub(crate) const DOMAIN: &str = "cluster.local";

/// A resolver's configuration (resolv.conf(5)).
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

// === impl Resolver ===

impl Resolver {
    pub(crate) fn of_node() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().map(String::from)),
                Some("search") => found.searches = words.map(String::from).collect(),
                Some("options") => found.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        found
    }
}

pub(crate) fn config(pod: &Pod, cluster_dns: &str, node: &Resolver) -> DnsConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let on_host = spec.host_network == Some(true);
    let from_node = || DnsConfig { servers: node.servers.clone(), searches: node.searches.clone(), options: node.options.clone() };
    let of_cluster = || {
        let own = [format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.to_string()];
        DnsConfig {
            servers: vec![cluster_dns.into()],
            searches: own.into_iter().chain(node.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".into()],
        }
    };
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("Default") => from_node(),
        Some("ClusterFirstWithHostNet") => of_cluster(),
        _ if on_host => from_node(),
        _ => of_cluster(),
    };
    let stated = spec.dns_config.unwrap_or_default();
    add(&mut config.servers, stated.nameservers.unwrap_or_default());
    add(&mut config.searches, stated.searches.unwrap_or_default());
    for option in stated.options.unwrap_or_default() {
        let name = option.name.unwrap_or_default();
        // An option of the Pod's own replaces that of the policy.
        config.options.retain(|known| known.split(':').next() != Some(name.as_str()));
        config.options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
    }
    config
}

fn add(list: &mut Vec<String>, more: Vec<String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn follows_the_policy_and_adds_the_pods_own() {
        let node = Resolver::parse("nameserver 1.1.1.1\nsearch corp\noptions edns0\n");
        let check = |spec: Value, expected: (&[&str], &[&str], &[&str])| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": spec})).expect("a Pod");
            let found = config(&pod, "10.96.0.10", &node);
            assert_eq!(found.servers, expected.0);
            assert_eq!(found.searches, expected.1);
            assert_eq!(found.options, expected.2);
        };
        let cluster = ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"];
        check(json!({"containers": []}), (&["10.96.0.10"], &cluster, &["ndots:5"]));
        check(json!({"containers": [], "hostNetwork": true}), (&["1.1.1.1"], &["corp"], &["edns0"]));
        check(json!({"containers": [], "dnsPolicy": "Default"}), (&["1.1.1.1"], &["corp"], &["edns0"]));
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}}),
            (&["9.9.9.9"], &["x"], &["ndots:2"]),
        );
        check(
            json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}, {"name": "rotate"}]}}),
            (&["10.96.0.10"], &cluster, &["ndots:1", "rotate"]),
        );
    }
}
