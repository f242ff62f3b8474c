//! The ways to other nodes' Pod ranges: straight to a node that shares a link with this one, through a tunnel to any other.
//!
//! ```text
//!   10.244.2.0/24 via 198.18.0.12                                       on a link: the node's kernel forwards
//!   10.244.3.0/24 encap ip id 1 dst 203.0.113.7 dev skein-vxlan         behind routers, which know nothing of Pods
//! ```
//!
//! The tunnel is one device that leads to all nodes (VXLAN-GPE, lightweight tunnels): each route names its far end, so
//! there are no neighbours to be learned. What goes through it is as open as what goes straight.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;

use serde::Deserialize;

use crate::{Error, ip};

/// The device, and the port that IANA names for VXLAN-GPE.
const TUNNEL: &str = "skein-vxlan";
const PORT: u16 = 4790;

/// What IPv4, UDP and VXLAN-GPE add to a packet.
const OVERHEAD_BYTES: u32 = 36;

/// When packets to other nodes' Pods go through a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnels {
    /// To nodes that share no link with this one.
    #[default]
    CrossSubnet,
    Always,
    /// Whatever is between nodes has routes to their Pods.
    Never,
}

/// How a node's Pods are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Straight(Ipv4Addr),
    Tunnel(Ipv4Addr),
}

/// The other nodes: Pod range → address.
pub type Peers = BTreeMap<String, Ipv4Addr>;

/// Range → way.
pub type Routes = BTreeMap<String, Way>;

/// An address of this node, and what else is on that link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub address: Ipv4Addr,
    pub prefix_bits: u32,
    pub mtu: u32,
}

#[derive(Deserialize)]
struct Listed {
    ifname: String,
    mtu: u32,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<Ipv4Addr>,
    prefixlen: Option<u32>,
}

// === impl Link ===

impl Link {
    fn reaches(&self, other: Ipv4Addr) -> bool {
        let host_bits = 32 - self.prefix_bits.min(32);
        let network = |address: Ipv4Addr| u32::from(address).checked_shr(host_bits).unwrap_or(0);
        network(self.address) == network(other)
    }
}

/// The links of this node, without those of its Pods and without the tunnel.
pub fn links() -> Result<Vec<Link>, Error> {
    let command = "-json -4 addr show up scope global";
    let output = Command::new("ip").args(command.split(' ')).output();
    let output = output.map_err(|source| Error::Io { what: "cannot run ip".into(), source })?;
    let failed = |stderr: String| Error::Ip { command: command.into(), stderr };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    let listed: Vec<Listed> = serde_json::from_slice(&output.stdout).map_err(|why| failed(why.to_string()))?;
    let own = listed.into_iter().filter(|link| link.ifname != TUNNEL && !link.ifname.starts_with("skp"));
    let link = |link: Listed| {
        let address = move |at: Address| Some(Link { address: at.local?, prefix_bits: at.prefixlen?, mtu: link.mtu });
        link.addr_info.into_iter().filter_map(address)
    };
    Ok(own.flat_map(link).collect())
}

/// The way to each of the others.
pub fn ways(peers: &Peers, links: &[Link], tunnels: Tunnels) -> Routes {
    let way = |address: Ipv4Addr| match tunnels {
        Tunnels::Always => Way::Tunnel(address),
        Tunnels::Never => Way::Straight(address),
        Tunnels::CrossSubnet if links.iter().any(|link| link.reaches(address)) => Way::Straight(address),
        Tunnels::CrossSubnet => Way::Tunnel(address),
    };
    peers.iter().map(|(range, address)| (range.clone(), way(*address))).collect()
}

/// Brings the node's routes from `current` to `wanted`; `own` is its own range.
pub fn update(current: &Routes, wanted: &Routes, own: &str, links: &[Link]) -> Result<(), Error> {
    let is_tunnel = |way: &Way| matches!(way, Way::Tunnel(_));
    if wanted.values().any(is_tunnel) && !current.values().any(is_tunnel) {
        let exists = Command::new("ip").args(["link", "show", TUNNEL]).output().is_ok_and(|output| output.status.success());
        ip(None, &tunnel(exists, own, links))?;
    }
    let lines = plan(current, wanted);
    if lines.is_empty() { Ok(()) } else { ip(None, &lines) }
}

/// What makes the tunnel. It has an address of the node's own range, which no Pod gets: what the node itself sends to Pods
/// comes from there, and so their answers find back.
fn tunnel(exists: bool, own: &str, links: &[Link]) -> Vec<String> {
    let add = (!exists).then(|| format!("link add {TUNNEL} type vxlan external gpe dstport {PORT}"));
    let mtu = links.iter().map(|link| link.mtu).min().unwrap_or(1500).saturating_sub(OVERHEAD_BYTES);
    let first = own.split('/').next().unwrap_or_default();
    let rest = [format!("link set {TUNNEL} mtu {mtu} up"), format!("addr replace {first}/32 dev {TUNNEL}")];
    add.into_iter().chain(rest).collect()
}

fn plan(current: &Routes, wanted: &Routes) -> Vec<String> {
    let gone = current.keys().filter(|range| !wanted.contains_key(*range)).map(|range| format!("route del {range}"));
    let new = wanted.iter().filter(|(range, way)| current.get(*range) != Some(way)).map(|(range, way)| match way {
        Way::Straight(node) => format!("route replace {range} via {node}"),
        Way::Tunnel(node) => format!("route replace {range} encap ip id 1 dst {node} dev {TUNNEL}"),
    });
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 12);
    const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

    fn routes(pairs: &[(&str, Way)]) -> Routes {
        pairs.iter().map(|(range, way)| ((*range).to_string(), *way)).collect()
    }

    #[test]
    fn only_nodes_of_other_links_are_behind_a_tunnel() {
        let peers: Peers = [("10.244.2.0/24".to_string(), NEAR), ("10.244.3.0/24".to_string(), FAR)].into();
        let link = |prefix_bits| [Link { address: Ipv4Addr::new(198, 18, 0, 11), prefix_bits, mtu: 1500 }];
        let check = |prefix_bits, tunnels, near, far| {
            let expected = routes(&[("10.244.2.0/24", near), ("10.244.3.0/24", far)]);
            assert_eq!(ways(&peers, &link(prefix_bits), tunnels), expected);
        };
        check(16, Tunnels::CrossSubnet, Way::Straight(NEAR), Way::Tunnel(FAR));
        check(32, Tunnels::CrossSubnet, Way::Tunnel(NEAR), Way::Tunnel(FAR));
        check(0, Tunnels::CrossSubnet, Way::Straight(NEAR), Way::Straight(FAR));
        check(16, Tunnels::Always, Way::Tunnel(NEAR), Way::Tunnel(FAR));
        check(32, Tunnels::Never, Way::Straight(NEAR), Way::Straight(FAR));
        assert_eq!(
            tunnel(false, "10.244.1.0/24", &link(16)),
            [
                "link add skein-vxlan type vxlan external gpe dstport 4790",
                "link set skein-vxlan mtu 1464 up",
                "addr replace 10.244.1.0/32 dev skein-vxlan"
            ]
        );
    }

    #[test]
    fn changes_only_what_differs() {
        let current = routes(&[("10.244.1.0/24", Way::Straight(NEAR)), ("10.244.2.0/24", Way::Tunnel(FAR))]);
        let wanted =
            routes(&[("10.244.1.0/24", Way::Straight(NEAR)), ("10.244.3.0/24", Way::Straight(NEAR)), ("10.244.4.0/24", Way::Tunnel(FAR))]);
        assert_eq!(
            plan(&current, &wanted),
            [
                "route del 10.244.2.0/24",
                "route replace 10.244.3.0/24 via 198.18.0.12",
                "route replace 10.244.4.0/24 encap ip id 1 dst 203.0.113.7 dev skein-vxlan"
            ]
        );
    }
}
