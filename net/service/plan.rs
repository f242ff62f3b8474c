//! What the rules should be. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use skein_nft::Rules;

/// For how long a client sticks to an endpoint where the Service does not say (`DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS: u64 = 10_800;

/// Marks packets that must come back by way of this node: kube-proxy's bit.
const MASQUERADE: &str = "0x4000";

/// The node that the rules are for.
pub struct Node<'a> {
    pub name: &'a str,
}

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node_ports";
const REFUSED: &str = "refused";
const REFUSED_PORTS: &str = "refused_ports";
const HAIRPIN: &str = "hairpin";

/// What is always there.
pub const BASE: &str = "  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map node_ports { type inet_proto . inet_service : verdict; }
  map refused { type ipv4_addr . inet_proto . inet_service : verdict; }
  map refused_ports { type inet_proto . inet_service : verdict; }
  set hairpin { type ipv4_addr . ipv4_addr; }
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }
  chain dispatch {
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @node_ports
  }
  chain prerouting { type nat hook prerouting priority -100; jump dispatch; }
  chain output { type nat hook output priority -100; jump dispatch; }
  chain postrouting {
    type nat hook postrouting priority 100;
    meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff masquerade
    ip saddr . ip daddr @hairpin masquerade
  }
  chain refuse_forward { type filter hook forward priority 0; ct state new ip daddr . meta l4proto . th dport vmap @refused; }
  chain refuse_output { type filter hook output priority 0; ct state new ip daddr . meta l4proto . th dport vmap @refused; }
  chain refuse_input {
    type filter hook input priority 0;
    ct state new ip daddr . meta l4proto . th dport vmap @refused
    ct state new meta l4proto . th dport vmap @refused_ports
  }
";

/// One endpoint of a port: where to, and whether it is on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    address: Ipv4Addr,
    port: u16,
    local: bool,
}

/// The rules for a Service on one node, from its slices. They are a part of the table: what another Service is changes nothing
/// in them.
pub fn plan(node: &Node<'_>, service: &Service, slices: &[&EndpointSlice]) -> Rules {
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| s.address_type == "IPv4").collect();
    let mut rules = Plan::default();
    for port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
        rules.add_port(node, service, port, &slices);
    }
    rules.0
}

/// The rules as they grow.
#[derive(Default)]
struct Plan(Rules);

// === impl Plan ===

impl Plan {
    fn add_port(&mut self, node: &Node<'_>, service: &Service, port: &ServicePort, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") || spec.cluster_ip.as_deref().is_none_or(|ip| ip == "None" || ip.is_empty()) {
            return;
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        let number = port.port;
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = format!("{namespace}/{}/{protocol}/{number}", service.metadata.name.as_deref().unwrap_or_default());
        let all = targets(node, port, slices);
        for target in all.iter().filter(|t| t.local) {
            self.0.element(HAIRPIN, format!("{0} . {0}", target.address), String::new());
        }
        let sticky = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let stated = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
            stated.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS)
        });
        let local: Vec<Target> = all.iter().filter(|t| t.local).cloned().collect();
        // What every node serves, API and DNS, asks for the same node, where it is alive.
        let near = spec.traffic_distribution.as_deref() == Some("PreferSameNode");
        let inside = match spec.internal_traffic_policy.as_deref() {
            Some("Local") => &local,
            _ if near && !local.is_empty() => &local,
            _ => &all,
        };
        let inner = format!("svc/{name}");
        let lines = self.balance(&name, &protocol, inside, sticky);
        self.0.chains.insert(inner.clone(), lines);
        let cluster_ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).filter(|ip| ip.parse::<Ipv4Addr>().is_ok());
        let refuse = all.is_empty();
        for ip in cluster_ips {
            self.lead(&format!("{ip} . {protocol} . {number}"), &inner, refuse);
        }
        let balanced: Vec<&String> = service
            .status
            .iter()
            .flat_map(|s| s.load_balancer.iter().flat_map(|l| l.ingress.iter().flatten()))
            .filter_map(|i| i.ip.as_ref())
            .collect();
        let outside: Vec<&String> = spec.external_ips.iter().flatten().collect();
        if outside.is_empty() && balanced.is_empty() && port.node_port.is_none() {
            return;
        }
        let outer = format!("ext/{name}");
        let lines = if spec.external_traffic_policy.as_deref() == Some("Local") {
            // The client's address stays; a node without an endpoint takes nothing.
            self.balance(&name, &protocol, &local, sticky)
        } else {
            vec![format!("meta mark set meta mark | {MASQUERADE}"), format!("goto {inner}")]
        };
        self.0.chains.insert(outer.clone(), lines);
        for ip in outside.into_iter().filter(|ip| ip.parse::<Ipv4Addr>().is_ok()) {
            self.lead(&format!("{ip} . {protocol} . {number}"), &outer, refuse);
        }
        let ranges: Vec<&str> =
            spec.load_balancer_source_ranges.iter().flatten().map(String::as_str).filter(|r| !r.contains(':')).collect();
        let mut front = outer.clone();
        if !ranges.is_empty() && !balanced.is_empty() {
            front = format!("lb/{name}");
            self.0.chains.insert(front.clone(), vec![format!("ip saddr != {{ {} }} drop", ranges.join(", ")), format!("goto {outer}")]);
        }
        for ip in balanced.into_iter().filter(|ip| ip.parse::<Ipv4Addr>().is_ok()) {
            self.lead(&format!("{ip} . {protocol} . {number}"), &front, refuse);
        }
        if let Some(node_port) = port.node_port {
            let key = format!("{protocol} . {node_port}");
            if refuse {
                self.0.element(REFUSED_PORTS, key, "goto refuse".into());
            } else {
                self.0.element(NODE_PORTS, key, format!("goto {outer}"));
            }
        }
    }

    /// The rules that choose one of these; where clients stick, each endpoint has a chain and remembers its clients for so
    /// many seconds since they last came.
    fn balance(&mut self, name: &str, protocol: &str, targets: &[Target], sticky: Option<u64>) -> Vec<String> {
        let Some(seconds) = sticky.filter(|_| !targets.is_empty()) else { return vec![translate(protocol, targets)] };
        let (mut known, mut any) = (Vec::new(), Vec::new());
        for (index, target) in targets.iter().enumerate() {
            let one = format!("{name}/{}.{}", target.address, target.port);
            let (set, chain) = (format!("seen/{seconds}/{one}"), format!("to/{one}"));
            self.0.sets.insert(set.clone(), format!("ipv4_addr; flags dynamic, timeout; timeout {seconds}s").into());
            let remember = format!("update @{set} {{ ip saddr }}");
            self.0.chains.insert(chain.clone(), vec![remember, translate(protocol, std::slice::from_ref(target))]);
            known.push(format!("ip saddr @{set} goto {chain}"));
            any.push(format!("{index} : goto {chain}"));
        }
        known.push(format!("numgen random mod {} vmap {{ {} }}", targets.len(), any.join(", ")));
        known
    }

    /// To a chain, or, where there is nobody to take it, to a refusal that the client hears at once.
    fn lead(&mut self, key: &str, chain: &str, refuse: bool) {
        if refuse {
            self.0.element(REFUSED, key.into(), "goto refuse".into());
        } else {
            self.0.element(SERVICES, key.into(), format!("goto {chain}"));
        }
    }
}

/// One rule: the packet's destination becomes one of these, or the packet is dropped.
fn translate(protocol: &str, targets: &[Target]) -> String {
    if targets.is_empty() {
        return "drop".into();
    }
    let entries: Vec<String> = targets.iter().enumerate().map(|(i, t)| format!("{i} : {} . {}", t.address, t.port)).collect();
    format!("meta l4proto {protocol} dnat ip to numgen random mod {} map {{ {} }}", targets.len(), entries.join(", "))
}

/// Ready endpoints of a port; where there are none, those that still serve while they end (KEP-1669).
fn targets(node: &Node<'_>, port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<Target> {
    let collect = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let mut found = BTreeSet::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let matching = ports.filter(|p| p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default());
            let number = { matching }.find_map(|p| p.port).and_then(|p| u16::try_from(p).ok());
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten().filter(|e| wanted(e)) {
                let local = endpoint.node_name.as_deref() == Some(node.name);
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                found.extend(addresses.map(|address| Target { address, port: number, local }));
            }
        }
        found.into_iter().collect::<Vec<_>>()
    };
    let ready = collect(&|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    if !ready.is_empty() {
        return ready;
    }
    collect(&|e| e.conditions.as_ref().is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(service: Value, slices: &[Value]) -> Rules {
        let service: Service = serde_json::from_value(service).expect("a Service");
        let slices: Vec<EndpointSlice> = slices.iter().map(|s| serde_json::from_value(s.clone()).expect("a slice")).collect();
        plan(&Node { name: "a" }, &service, &slices.iter().collect::<Vec<_>>())
    }

    fn slice(endpoints: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": "w-1", "labels": {"kubernetes.io/service-name": "w"}}, "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    }

    fn service(extra: Value) -> Value {
        let mut service = json!({"metadata": {"namespace": "n", "name": "w"},
            "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]}});
        for (key, value) in extra.as_object().cloned().unwrap_or_default() {
            service["spec"][key] = value;
        }
        service
    }

    #[test]
    fn balances_over_ready_endpoints_and_refuses_without_any() {
        let two = json!([
            {"addresses": ["10.244.0.2"], "nodeName": "a", "conditions": {"ready": true}},
            {"addresses": ["10.244.1.2"], "nodeName": "b", "conditions": {"ready": true}},
            {"addresses": ["10.244.1.3"], "nodeName": "b", "conditions": {"ready": false}},
        ]);
        let found = rules(service(json!({})), &[slice(two.clone())]);
        assert_eq!(
            found.chains["svc/n/w/tcp/80"],
            ["meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.1.2 . 8080 }"]
        );
        assert_eq!(found.elements[SERVICES]["10.96.0.9 . tcp . 80"], "goto svc/n/w/tcp/80");
        assert!(found.elements[HAIRPIN].contains_key("10.244.0.2 . 10.244.0.2"));
        let none = rules(service(json!({})), &[]);
        assert_eq!(none.elements[REFUSED]["10.96.0.9 . tcp . 80"], "goto refuse");
        assert!(!none.elements.contains_key(SERVICES));
        let local = rules(service(json!({"internalTrafficPolicy": "Local"})), &[slice(two.clone())]);
        assert!(local.chains["svc/n/w/tcp/80"][0].contains("mod 1 map { 0 : 10.244.0.2 . 8080 }"));
        let config = json!({"clientIP": {"timeoutSeconds": 60}});
        let sticky = rules(service(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), &[slice(two)]);
        assert_eq!(
            sticky.chains["svc/n/w/tcp/80"],
            [
                "ip saddr @seen/60/n/w/tcp/80/10.244.0.2.8080 goto to/n/w/tcp/80/10.244.0.2.8080",
                "ip saddr @seen/60/n/w/tcp/80/10.244.1.2.8080 goto to/n/w/tcp/80/10.244.1.2.8080",
                "numgen random mod 2 vmap { 0 : goto to/n/w/tcp/80/10.244.0.2.8080, 1 : goto to/n/w/tcp/80/10.244.1.2.8080 }",
            ]
        );
        assert_eq!(
            sticky.chains["to/n/w/tcp/80/10.244.0.2.8080"],
            [
                "update @seen/60/n/w/tcp/80/10.244.0.2.8080 { ip saddr }",
                "meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.244.0.2 . 8080 }",
            ]
        );
        assert_eq!(sticky.sets["seen/60/n/w/tcp/80/10.244.0.2.8080"], "ipv4_addr; flags dynamic, timeout; timeout 60s");
    }

    #[test]
    fn serves_from_those_that_end_when_nobody_else_is_left() {
        let ending = json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
        assert!(rules(service(json!({})), &[slice(ending)]).elements.contains_key(SERVICES));
    }

    #[test]
    fn node_ports_masquerade_unless_they_are_local() {
        let one = json!([{"addresses": ["10.244.1.2"], "nodeName": "b"}]);
        let mut with_port = service(json!({"type": "NodePort"}));
        with_port["spec"]["ports"][0]["nodePort"] = 30080.into();
        let found = rules(with_port.clone(), &[slice(one.clone())]);
        assert_eq!(found.elements[NODE_PORTS]["tcp . 30080"], "goto ext/n/w/tcp/80");
        assert_eq!(found.chains["ext/n/w/tcp/80"], ["meta mark set meta mark | 0x4000", "goto svc/n/w/tcp/80"]);
        with_port["spec"]["externalTrafficPolicy"] = "Local".into();
        assert_eq!(rules(with_port, &[slice(one)]).chains["ext/n/w/tcp/80"], ["drop"]);
    }

    #[test]
    fn balanced_addresses_let_in_whom_the_service_names() {
        let one = [slice(json!([{"addresses": ["10.244.1.2"], "nodeName": "b"}]))];
        let mut balanced = service(json!({"type": "LoadBalancer"}));
        balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}});
        let found = rules(balanced.clone(), &one);
        assert_eq!(found.elements[SERVICES]["192.0.2.8 . tcp . 80"], "goto ext/n/w/tcp/80");
        balanced["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.0/8", "192.0.2.0/24"]);
        let found = rules(balanced, &one);
        assert_eq!(found.elements[SERVICES]["192.0.2.8 . tcp . 80"], "goto lb/n/w/tcp/80");
        assert_eq!(found.chains["lb/n/w/tcp/80"], ["ip saddr != { 10.0.0.0/8, 192.0.2.0/24 } drop", "goto ext/n/w/tcp/80"]);
    }
}
