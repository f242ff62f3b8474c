//! Ports of the node that lead to its Pods (`hostPort`), as rules of a table of their own. Pure.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use skein_nft::{Rules, Table};

const BY_ADDRESS: &str = "by_address";
const ANY_ADDRESS: &str = "any_address";
const PODS: &str = "pods";
const HAIRPIN: &str = "hairpin";

/// What is always there. A Pod cannot answer to a loopback address, and nobody from outside may reach one by way of the
/// routes that loopback packets need (CVE-2020-8558).
const BASE: &str = "  map by_address { type ipv4_addr . inet_proto . inet_service : verdict; }
  map any_address { type inet_proto . inet_service : verdict; }
  set pods { type ipv4_addr; }
  set hairpin { type ipv4_addr . ipv4_addr; }
  chain dispatch {
    ip daddr . meta l4proto . th dport vmap @by_address
    fib daddr type local meta l4proto . th dport vmap @any_address
  }
  chain guard { type filter hook prerouting priority -300; iifname != lo ip daddr 127.0.0.0/8 drop; }
  chain prerouting { type nat hook prerouting priority -100; jump dispatch; }
  chain output { type nat hook output priority -100; jump dispatch; }
  chain postrouting {
    type nat hook postrouting priority 100;
    ip saddr 127.0.0.0/8 ip daddr @pods masquerade
    ip saddr . ip daddr @hairpin masquerade
  }
";

/// The node's table of host ports.
pub fn table() -> Table {
    Table::new("skein-host-ports", BASE)
}

/// The rules for the Pods of this node, each with its address.
pub fn plan<'a>(pods: impl IntoIterator<Item = (&'a Pod, Ipv4Addr)>) -> Rules {
    let mut rules = Rules::default();
    for (pod, address) in pods {
        let meta = &pod.metadata;
        let owner = format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        for (port, number) in open(pod) {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            let bound = port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0");
            let chain = format!("host/{owner}/{protocol}/{}/{number}", bound.unwrap_or("any"));
            let (map, key) = match bound {
                // What is bound to an address of the other family is none of this table's.
                Some(ip) if ip.parse::<Ipv4Addr>().is_err() => continue,
                Some(ip) => (BY_ADDRESS, format!("{ip} . {protocol} . {number}")),
                None => (ANY_ADDRESS, format!("{protocol} . {number}")),
            };
            rules.chains.insert(chain.clone(), vec![format!("meta l4proto {protocol} dnat ip to {address}:{}", port.container_port)]);
            rules.element(map, key, format!("goto {chain}"));
            rules.element(PODS, address.to_string(), String::new());
            rules.element(HAIRPIN, format!("{address} . {address}"), String::new());
        }
    }
    rules
}

/// The ports of a Pod that are the node's as well, with their numbers there.
fn open(pod: &Pod) -> impl Iterator<Item = (&ContainerPort, i32)> {
    let spec = pod.spec.iter().filter(|spec| spec.host_network != Some(true));
    let containers = spec.flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    });
    containers.flat_map(|c| c.ports.iter().flatten()).filter_map(|port| Some((port, port.host_port.filter(|number| *number > 0)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_leads_to_its_pod_on_the_addresses_that_it_names() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 81}, {"containerPort": 82, "hostPort": 82, "hostIP": "::1"}]}]}}))
            .expect("a Pod");
        let rules = plan([(&pod, Ipv4Addr::new(10, 244, 0, 5))]);
        assert_eq!(rules.elements[ANY_ADDRESS].iter().collect::<Vec<_>>(), [(&"tcp . 8080".into(), &"goto host/n/p/tcp/any/8080".into())]);
        let bound: Vec<_> = rules.elements[BY_ADDRESS].iter().collect();
        assert_eq!(bound, [(&"127.0.0.1 . udp . 53".into(), &"goto host/n/p/udp/127.0.0.1/53".into())]);
        assert_eq!(rules.chains["host/n/p/tcp/any/8080"], ["meta l4proto tcp dnat ip to 10.244.0.5:80"]);
        assert_eq!(rules.chains.len(), 2);
        assert!(rules.elements[PODS].contains_key("10.244.0.5") && rules.elements[HAIRPIN].contains_key("10.244.0.5 . 10.244.0.5"));
    }
}
