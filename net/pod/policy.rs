//! NetworkPolicies on a node: which packets reach its Pods and leave them. Pure.
//!
//! ```text
//!   packet from a Pod ─▶ map egress (source) ─▶ out/NAMESPACE/NAME ─▶ its policies: accept ─ else drop
//!   packet to a Pod   ─▶ map ingress (destination) ─▶ in/NAMESPACE/NAME ─▶ its policies: accept ─ else drop
//! ```
//!
//! A packet costs two look-ups, however many Pods and policies there are. Peers are sets of addresses, so that a Pod that
//! comes or goes is an element. While there is any policy, a Pod on this node has no network before its rules are there.
//! Traffic between a Pod and its own node is always allowed: probes come from there, and DNS is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skein_nft::Rules;
use skein_object::selector::{Labels, Selector};

/// What is always there. `skp` begins the names of Pods' links.
pub const BASE: &str = "  set admitted { type ipv4_addr; }
  map egress { type ipv4_addr : verdict; }
  map ingress { type ipv4_addr : verdict; }
  chain guard {}
  chain from_pods {
    type filter hook forward priority -10;
    ct state established,related accept
    jump guard
    ip saddr vmap @egress
  }
  chain to_pods {
    type filter hook forward priority -5;
    ct state established,related accept
    ip daddr vmap @ingress
  }
";

/// A Pod with an address of its own.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub labels: &'a Labels,
    pub address: Ipv4Addr,
    pub is_local: bool,
    /// Names, protocols and numbers of its containers' ports.
    pub ports: Vec<(&'a str, &'a str, u16)>,
}

/// What rules are made of.
pub struct Around<'a> {
    pub members: Vec<Member<'a>>,
    /// The labels of each namespace.
    pub namespaces: BTreeMap<&'a str, &'a Labels>,
    pub policies: Vec<&'a NetworkPolicy>,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    In,
    Out,
}

/// A rule of a policy: peers and ports, where they are stated.
struct Allowed<'a> {
    peers: Option<&'a [NetworkPolicyPeer]>,
    ports: Option<&'a [NetworkPolicyPort]>,
}

// === impl Direction ===

impl Direction {
    fn name(self) -> &'static str {
        if self == Self::In { "in" } else { "out" }
    }

    /// The end of the packet that the peer is.
    fn peer(self) -> &'static str {
        if self == Self::In { "saddr" } else { "daddr" }
    }

    fn is_of(self, policy: &NetworkPolicy) -> bool {
        let kind = if self == Self::In { "Ingress" } else { "Egress" };
        let spec = policy.spec.as_ref();
        let types = spec.and_then(|s| s.policy_types.as_deref()).unwrap_or_default();
        if types.is_empty() { self == Self::In || spec.is_some_and(|s| s.egress.is_some()) } else { types.iter().any(|t| t == kind) }
    }

    fn rules(self, policy: &NetworkPolicy) -> Vec<Allowed<'_>> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let of = |peers: Option<&'_ Vec<NetworkPolicyPeer>>| peers.map(Vec::len).unwrap_or(0) > 0;
        match self {
            Self::In => {
                let rules = spec.ingress.iter().flatten();
                rules.map(|r| Allowed { peers: r.from.as_deref().filter(|_| of(r.from.as_ref())), ports: r.ports.as_deref() }).collect()
            }
            Self::Out => {
                let rules = spec.egress.iter().flatten();
                rules.map(|r| Allowed { peers: r.to.as_deref().filter(|_| of(r.to.as_ref())), ports: r.ports.as_deref() }).collect()
            }
        }
    }
}

/// The rules for the Pods on one node.
pub fn plan(around: &Around<'_>) -> Rules {
    let mut rules = Rules::default();
    let mut guard = Vec::new();
    if !around.policies.is_empty() {
        guard = vec!["iifname \"skp*\" ip saddr != @admitted drop".into(), "oifname \"skp*\" ip daddr != @admitted drop".into()];
    }
    rules.chains.insert("guard".into(), guard);
    let mut used: BTreeSet<(&'static str, &str, &str)> = BTreeSet::new();
    for member in around.members.iter().filter(|m| m.is_local && !around.policies.is_empty()) {
        rules.element("admitted", member.address.to_string(), String::new());
        for direction in [Direction::In, Direction::Out] {
            let chosen: Vec<&&NetworkPolicy> = around.policies.iter().filter(|p| direction.is_of(p) && selects(p, member)).collect();
            if chosen.is_empty() {
                continue;
            }
            let chain = format!("{}/{}/{}", direction.name(), member.namespace, member.name);
            let mut lines = Vec::new();
            for policy in chosen {
                let name = policy.metadata.name.as_deref().unwrap_or_default();
                lines.push(format!("jump {}", policy_chain(direction, member.namespace, name)));
                if used.insert((direction.name(), member.namespace, name)) {
                    add_policy(around, direction, policy, &mut rules);
                }
            }
            lines.push("drop".into());
            let map = if direction == Direction::In { "ingress" } else { "egress" };
            rules.element(map, member.address.to_string(), format!("goto {chain}"));
            rules.chains.insert(chain, lines);
        }
    }
    rules
}

fn policy_chain(direction: Direction, namespace: &str, name: &str) -> String {
    format!("policy-{}/{namespace}/{name}", direction.name())
}

fn selects(policy: &NetworkPolicy, member: &Member<'_>) -> bool {
    policy.metadata.namespace.as_deref() == Some(member.namespace)
        && policy.spec.as_ref().is_some_and(|spec| match &spec.pod_selector {
            Some(selector) => Selector::from_label_selector(selector).matches(member.labels),
            None => true,
        })
}

/// The chain of a policy: one line for each way in which a packet may be allowed.
fn add_policy(around: &Around<'_>, direction: Direction, policy: &NetworkPolicy, rules: &mut Rules) {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let chain = policy_chain(direction, namespace, policy.metadata.name.as_deref().unwrap_or_default());
    let mut lines = Vec::new();
    for (index, allowed) in direction.rules(policy).iter().enumerate() {
        let set = format!("{chain}/{index}");
        let peers = peers(around, direction, namespace, allowed, &set, rules);
        let ports = ports(around, direction, policy, allowed, &format!("{set}/ports"), rules);
        for peer in &peers {
            lines.extend(ports.iter().map(|port| format!("{peer}{port}accept")));
        }
    }
    rules.chains.insert(chain, lines);
}

/// The matches of a rule's peers, each with a space behind it; one that is empty matches everybody.
fn peers(around: &Around<'_>, direction: Direction, namespace: &str, allowed: &Allowed<'_>, set: &str, rules: &mut Rules) -> Vec<String> {
    let Some(peers) = allowed.peers else { return vec![String::new()] };
    let end = direction.peer();
    let mut matches = Vec::new();
    let mut has_set = false;
    for peer in peers {
        if let Some(block) = &peer.ip_block {
            // Ranges of IPv6 match no packet of a table for IPv4.
            let is_v4 = |range: &&String| {
                range.parse::<Ipv4Addr>().is_ok() || range.split('/').next().is_some_and(|ip| ip.parse::<Ipv4Addr>().is_ok())
            };
            if is_v4(&&block.cidr) {
                let except: Vec<&str> = block.except.iter().flatten().filter(is_v4).map(String::as_str).collect();
                let except = if except.is_empty() { String::new() } else { format!("ip {end} != {{ {} }} ", except.join(", ")) };
                matches.push(format!("ip {end} {} {except}", block.cidr));
            }
            continue;
        }
        if !has_set {
            matches.push(format!("ip {end} @{set} "));
            rules.sets.insert(set.into(), "ipv4_addr".into());
            has_set = true;
        }
        for member in around.members.iter().filter(|member| is_peer(around, peer, namespace, member)) {
            rules.element(set, member.address.to_string(), String::new());
        }
    }
    matches
}

fn is_peer(around: &Around<'_>, peer: &NetworkPolicyPeer, namespace: &str, member: &Member<'_>) -> bool {
    let in_namespace = match &peer.namespace_selector {
        Some(selector) => {
            let selector = Selector::from_label_selector(selector);
            around.namespaces.get(member.namespace).is_some_and(|labels| selector.matches(labels))
        }
        None => member.namespace == namespace,
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| Selector::from_label_selector(selector).matches(member.labels))
}

/// The matches of a rule's ports, each with a space behind it. A name is looked up in the Pods that packets go to.
fn ports(
    around: &Around<'_>,
    direction: Direction,
    policy: &NetworkPolicy,
    allowed: &Allowed<'_>,
    set: &str,
    rules: &mut Rules,
) -> Vec<String> {
    let Some(ports) = allowed.ports.filter(|ports| !ports.is_empty()) else { return vec![String::new()] };
    let mut matches = Vec::new();
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        match (&port.port, port.end_port) {
            (None, _) => matches.push(format!("meta l4proto {protocol} ")),
            (Some(IntOrString::Int(from)), Some(to)) => matches.push(format!("meta l4proto {protocol} th dport {from}-{to} ")),
            (Some(IntOrString::Int(number)), None) => matches.push(format!("meta l4proto {protocol} th dport {number} ")),
            (Some(IntOrString::String(name)), _) => {
                if rules.sets.insert(set.into(), "ipv4_addr . inet_proto . inet_service".into()).is_none() {
                    matches.push(format!("ip daddr . meta l4proto . th dport @{set} "));
                }
                let goes_to = |member: &&Member<'_>| direction == Direction::Out || selects(policy, member);
                for member in around.members.iter().filter(goes_to) {
                    let named = member.ports.iter().filter(|(known, kind, _)| known == name && kind.eq_ignore_ascii_case(&protocol));
                    for (.., number) in named {
                        rules.element(set, format!("{} . {protocol} . {number}", member.address), String::new());
                    }
                }
            }
        }
    }
    matches
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(spec: Value) -> Rules {
        let policy: NetworkPolicy =
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "spec": spec})).expect("a policy");
        let label = |app: &str| Labels::from([("app".to_string(), app.to_string())]);
        let (web, db, team) = (label("web"), label("db"), Labels::from([("team".to_string(), "x".to_string())]));
        let member = |namespace, name, labels, last, is_local| Member {
            namespace,
            name,
            labels,
            address: Ipv4Addr::new(10, 244, 0, last),
            is_local,
            ports: vec![("http", "TCP", 8080)],
        };
        let none = Labels::new();
        plan(&Around {
            members: vec![member("n", "web", &web, 1, true), member("n", "db", &db, 2, false), member("m", "web", &web, 3, true)],
            namespaces: [("n", &none), ("m", &team)].into(),
            policies: vec![&policy],
        })
    }

    fn check(spec: Value, chain: &str, expected: &[&str]) {
        assert_eq!(planned(spec).chains.get(chain).cloned().unwrap_or_default(), expected);
    }

    #[test]
    fn denies_what_nothing_allows() {
        let rules = planned(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        assert_eq!(rules.chains["in/n/web"], ["jump policy-in/n/p", "drop"]);
        assert_eq!(rules.chains["policy-in/n/p"], Vec::<String>::new());
        assert_eq!(rules.elements["egress"], [("10.244.0.1".to_string(), "goto out/n/web".to_string())].into());
        // Both of this node's Pods have a network, and the other namespace's is not confined.
        assert_eq!(rules.elements["admitted"].len(), 2);
        assert!(!rules.chains.contains_key("in/m/web"));
        let nothing = plan(&Around { members: Vec::new(), namespaces: BTreeMap::new(), policies: Vec::new() });
        assert_eq!(nothing.chains["guard"], Vec::<String>::new());
    }

    #[test]
    fn allows_peers_and_ports() {
        let from =
            |peer: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer], "ports": [{"port": 80}]}]});
        let rules = planned(from(json!({"podSelector": {"matchLabels": {"app": "db"}}})));
        assert_eq!(rules.chains["policy-in/n/p"], ["ip saddr @policy-in/n/p/0 meta l4proto tcp th dport 80 accept"]);
        assert_eq!(rules.elements["policy-in/n/p/0"].keys().collect::<Vec<_>>(), ["10.244.0.2"]);
        let rules = planned(from(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
        assert_eq!(rules.elements["policy-in/n/p/0"].keys().collect::<Vec<_>>(), ["10.244.0.3"]);
        check(
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})),
            "policy-in/n/p",
            &["ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 } meta l4proto tcp th dport 80 accept"],
        );
        check(json!({"podSelector": {}, "ingress": [{}]}), "policy-in/n/p", &["accept"]);
        check(
            json!({"podSelector": {}, "egress": [{"ports": [{"port": 1, "endPort": 9, "protocol": "UDP"}]}], "policyTypes": ["Egress"]}),
            "policy-out/n/p",
            &["meta l4proto udp th dport 1-9 accept"],
        );
    }

    #[test]
    fn ports_have_names_where_packets_go_to() {
        let rules = planned(json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "http"}]}]}));
        assert_eq!(rules.chains["policy-in/n/p"], ["ip daddr . meta l4proto . th dport @policy-in/n/p/0/ports accept"]);
        assert_eq!(rules.elements["policy-in/n/p/0/ports"].keys().collect::<Vec<_>>(), ["10.244.0.1 . tcp . 8080"]);
    }
}
