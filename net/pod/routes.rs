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

use crate::Error;
use crate::netlink::{Address, Index, Netlink, Range, Target};

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

/// What brings the node's routes from one value to another.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Delete(String),
    Set(String, Way),
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
    let own = |found: &Address| found.link != TUNNEL && !found.link.starts_with("skp");
    let link = |found: Address| Link { address: found.range.address, prefix_bits: found.range.bits.into(), mtu: found.mtu };
    Ok(Netlink::open()?.addresses()?.into_iter().filter(own).map(link).collect())
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
    let steps = plan(current, wanted);
    if steps.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open()?;
    let tunnel = if wanted.values().any(|way| matches!(way, Way::Tunnel(_))) { Some(tunnel(&mut netlink, own, links)?) } else { None };
    for step in steps {
        match step {
            Step::Delete(range) => netlink.delete_route(Range::parse(&range)?)?,
            Step::Set(range, Way::Straight(node)) => netlink.set_route(Range::parse(&range)?, Target::Gateway(node))?,
            Step::Set(range, Way::Tunnel(end)) => {
                let tunnel = tunnel.expect("it is made where a way leads through it");
                netlink.set_route(Range::parse(&range)?, Target::Tunnel(tunnel, end))?;
            }
        }
    }
    Ok(())
}

/// The tunnel's link, made where it is missing. It has an address of the node's own range, which no Pod gets: what the node
/// itself sends to Pods comes from there, and so their answers find back.
fn tunnel(netlink: &mut Netlink, own: &str, links: &[Link]) -> Result<Index, Error> {
    if netlink.index(TUNNEL)?.is_none() {
        netlink.add_tunnel(TUNNEL, PORT)?;
    }
    let index = netlink.made(TUNNEL)?;
    netlink.set_mtu(index, tunnel_mtu(links))?;
    netlink.set_address(index, Range::parse(own)?.address)?;
    Ok(index)
}

/// What fits into the smallest packet that leaves this node.
fn tunnel_mtu(links: &[Link]) -> u32 {
    links.iter().map(|link| link.mtu).min().unwrap_or(1500).saturating_sub(OVERHEAD_BYTES)
}

fn plan(current: &Routes, wanted: &Routes) -> Vec<Step> {
    let gone = current.keys().filter(|range| !wanted.contains_key(*range)).cloned().map(Step::Delete);
    let new = wanted.iter().filter(|(range, way)| current.get(*range) != Some(way)).map(|(range, way)| Step::Set(range.clone(), *way));
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
        assert_eq!(tunnel_mtu(&link(16)), 1464);
    }

    #[test]
    fn changes_only_what_differs() {
        let current = routes(&[("10.244.1.0/24", Way::Straight(NEAR)), ("10.244.2.0/24", Way::Tunnel(FAR))]);
        let wanted =
            routes(&[("10.244.1.0/24", Way::Straight(NEAR)), ("10.244.3.0/24", Way::Straight(NEAR)), ("10.244.4.0/24", Way::Tunnel(FAR))]);
        let set = |range: &str, way| Step::Set(range.into(), way);
        assert_eq!(
            plan(&current, &wanted),
            [Step::Delete("10.244.2.0/24".into()), set("10.244.3.0/24", Way::Straight(NEAR)), set("10.244.4.0/24", Way::Tunnel(FAR))]
        );
    }
}
