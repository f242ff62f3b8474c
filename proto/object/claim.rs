//! Things of which there is one each: they are keys in the state, so that only one can have them.

/// ClusterIPs, by the address.
pub const CLUSTER_IPS: &str = "clusterips.skein.dev";

/// Node ports, by protocol and number.
pub const NODE_PORTS: &str = "nodeports.skein.dev";

/// Addresses of Services of type LoadBalancer, by the address; each names the node that announces it.
pub const LOAD_BALANCER_IPS: &str = "loadbalancerips.skein.dev";
