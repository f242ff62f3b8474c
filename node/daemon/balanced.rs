//! The addresses of LoadBalancer Services that this node announces: it has them, so it answers for them by ARP, and it
//! tells its neighbours at once when it has got one (RFC 5227, section 3).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};
use skein_object::Key;
use skein_object::claim::LOAD_BALANCER_IPS;
use skein_pod::Error;
use skein_pod::netlink::Netlink;
use skein_store::Handle;
use tracing::{info, warn};

/// Neighbours are told again and again: whoever held the address before may not know yet that he does not. What could not be
/// set is tried again, too.
const AGAIN: Duration = Duration::from_secs(10);

/// The interface on which the node's own address is.
struct Link {
    name: String,
    address: LinkAddr,
}

// === impl Link ===

impl Link {
    fn of(own: IpAddr) -> Option<Self> {
        let has_own = |interface: &nix::ifaddrs::InterfaceAddress| {
            let ip = interface.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
            ip.map(IpAddr::V4) == Some(own)
        };
        let name = getifaddrs().ok()?.find(has_own)?.interface_name;
        let link =
            getifaddrs().ok()?.find(|i| i.interface_name == name && i.address.as_ref().is_some_and(|a| a.as_link_addr().is_some()))?;
        let address = *link.address.as_ref()?.as_link_addr()?;
        Some(Self { name, address })
    }

    /// By this mark its addresses are found again after a restart.
    fn label(&self) -> String {
        format!("{}:lb", self.name.chars().take(12).collect::<String>())
    }

    fn addresses(&self, netlink: &mut Netlink) -> Result<BTreeSet<Ipv4Addr>, Error> {
        let label = self.label();
        let own = netlink.addresses()?.into_iter().filter(|found| found.label == label);
        Ok(own.map(|found| found.range.address).collect())
    }

    /// Gives the link what it is to have, and takes what it is not to have any more.
    fn set(&self, wanted: &BTreeSet<Ipv4Addr>) -> Result<(), Error> {
        let mut netlink = Netlink::open()?;
        let (index, has) = (netlink.made(&self.name)?, self.addresses(&mut netlink)?);
        for gone in has.difference(wanted) {
            info!(address = %gone, "no longer announced by this node");
            netlink.delete_address(index, *gone)?;
        }
        for new in wanted.difference(&has) {
            info!(address = %new, "announced by this node");
            netlink.set_labelled(index, *new, &self.label())?;
        }
        Ok(())
    }

    /// A gratuitous ARP request: whoever has an entry for the address takes this one.
    fn announce(&self, address: Ipv4Addr) -> nix::Result<()> {
        let Some(hardware) = self.address.addr() else { return Ok(()) };
        let broadcast = [0xff; 6];
        let mut frame = [&broadcast[..], &hardware, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]].concat();
        frame.extend([&hardware[..], &address.octets(), &[0; 6], &address.octets()].concat());
        let out = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        sendto(out.as_raw_fd(), &frame, &self.address, MsgFlags::empty()).map(drop)
    }
}

pub(crate) async fn run(store: Handle, node: String, own: IpAddr) {
    let Some(link) = Link::of(own) else {
        warn!(%own, "no interface has this node's address: it announces no addresses of Services");
        return;
    };
    let mut changes = store.subscribe(&[LOAD_BALANCER_IPS]);
    let mut known: Option<BTreeSet<Ipv4Addr>> = None;
    loop {
        let wanted = wanted(&store, &node);
        if known.as_ref() != Some(&wanted) {
            known = match link.set(&wanted) {
                Ok(()) => Some(wanted),
                Err(why) => {
                    warn!(%why, "addresses of Services cannot be set");
                    None
                }
            };
            known.iter().for_each(|known| announce(&link, known));
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if known.as_ref().is_none_or(|known| !known.is_empty()) => {
                known.iter().for_each(|known| announce(&link, known));
            }
        }
    }
}

fn announce(link: &Link, addresses: &BTreeSet<Ipv4Addr>) {
    for address in addresses {
        if let Err(why) = link.announce(*address) {
            warn!(%address, %why, "the neighbours cannot be told of an address");
        }
    }
}

/// What the state says that this node announces.
fn wanted(store: &Handle, node: &str) -> BTreeSet<Ipv4Addr> {
    let state = store.local().state;
    let prefix = Key::prefix(LOAD_BALANCER_IPS, "");
    let own = state.range(&prefix, None).filter(|(_, entry)| entry.record.field("node").is_some_and(|named| named == node));
    own.filter_map(|(key, _)| key.name().parse().ok()).collect()
}
