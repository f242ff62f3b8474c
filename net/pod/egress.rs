//! What Pods send to the world outside has their node's address: nobody there knows the way to a Pod. Between Pods, and
//! between Pods and the nodes that share a link with theirs, addresses stay what they are. Pure.

use skein_nft::{Rules, Table};

use crate::routes::{Routes, Way};

const OWN: &str = "own";
const PODS: &str = "pods";
const NODES: &str = "nodes";

const BASE: &str = "  set own { type ipv4_addr; flags interval; }
  set pods { type ipv4_addr; flags interval; }
  set nodes { type ipv4_addr; }
  chain postrouting {
    type nat hook postrouting priority 110;
    ip saddr @own ip daddr != @pods ip daddr != @nodes ip daddr != 224.0.0.0/4 masquerade
  }
";

/// The node's table of what leaves the Pod network.
pub fn table() -> Table {
    Table::new("skein-egress", BASE)
}

/// The rules of a node whose own range is this.
pub fn plan(own: &str, routes: &Routes) -> Rules {
    let mut rules = Rules::default();
    rules.element(OWN, own.into(), String::new());
    rules.element(PODS, own.into(), String::new());
    for (range, way) in routes {
        rules.element(PODS, range.clone(), String::new());
        if let Way::Straight(node) = way {
            rules.element(NODES, node.to_string(), String::new());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_node_behind_routers_is_the_world_outside() {
        let (near, far) = (Ipv4Addr::new(198, 18, 0, 12), Ipv4Addr::new(203, 0, 113, 7));
        let routes = [("10.244.2.0/24".to_string(), Way::Straight(near)), ("10.244.3.0/24".to_string(), Way::Tunnel(far))];
        let rules = plan("10.244.1.0/24", &routes.into());
        let keys = |set: &str| rules.elements[set].keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(keys(OWN), ["10.244.1.0/24"]);
        assert_eq!(keys(PODS), ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
        assert_eq!(keys(NODES), ["198.18.0.12"]);
    }
}
