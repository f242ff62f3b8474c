//! Things of which there is one each: they are keys in the state, so that only one can have them.

use serde_json::Value;

use crate::Key;

/// ClusterIPs, by the address.
pub const CLUSTER_IPS: &str = "clusterips.skein.dev";

/// Node ports, by protocol and number.
pub const NODE_PORTS: &str = "nodeports.skein.dev";

/// Addresses of Services of type LoadBalancer, by the address; each names the node that announces it.
pub const LOAD_BALANCER_IPS: &str = "loadbalancerips.skein.dev";

/// What a Service with this spec claims.
pub fn of_service(spec: &Value) -> Vec<Key> {
    let address = spec.get("clusterIP").and_then(Value::as_str).filter(|address| !matches!(*address, "" | "None"));
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    let node_ports = ports.filter_map(|port| {
        let number = port.get("nodePort").and_then(Value::as_u64).filter(|number| *number > 0)?;
        Some(node_port(port.get("protocol").and_then(Value::as_str).unwrap_or("TCP"), number))
    });
    address.map(|address| Key::new(CLUSTER_IPS, "", address)).into_iter().chain(node_ports).collect()
}

/// The key of a node port.
pub fn node_port(protocol: &str, number: u64) -> Key {
    Key::new(NODE_PORTS, "", &format!("{}-{number}", protocol.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_claims_its_address_and_its_node_ports() {
        let check = |spec: Value, expected: &[&str]| {
            assert_eq!(of_service(&spec).iter().map(Key::as_str).collect::<Vec<_>>(), expected);
        };
        check(json!({"clusterIP": "None", "ports": [{"port": 80}]}), &[]);
        let ports =
            json!([{"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 0}]);
        let expected = ["clusterips.skein.dev/10.96.0.9", "nodeports.skein.dev/udp-30053", "nodeports.skein.dev/tcp-30080"];
        check(json!({"clusterIP": "10.96.0.9", "ports": ports}), &expected);
    }
}
