//! What the kernel is asked about links, addresses and routes, and told of them (rtnetlink(7)).
//!
//! A socket speaks of the network namespace that it was made in, whoever uses it: a Pod's namespace is entered by a
//! thread that makes a socket there, and ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIpTunnel, RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::Error;

/// The kernel tells of so much at once.
const ANSWER_BYTES: usize = 64 * 1024;

/// The link of a namespace with itself.
pub(crate) const LOOPBACK: Index = Index(1);

/// A link's number in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Index(u32);

/// A range of addresses, as in `10.244.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub address: Ipv4Addr,
    pub bits: u8,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To all that is on the link.
    Link(Index),
    Gateway(Ipv4Addr),
    /// Through a tunnel, whose far end is named here.
    Tunnel(Index, Ipv4Addr),
}

/// An address of a link that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: String,
    pub mtu: u32,
    pub range: Range,
    /// The link's name, and whatever whoever set the address has put behind it.
    pub label: String,
}

pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

// === impl Range ===

impl Range {
    pub(crate) const ALL: Self = Self { address: Ipv4Addr::UNSPECIFIED, bits: 0 };

    /// One address.
    pub(crate) fn host(address: Ipv4Addr) -> Self {
        Self { address, bits: 32 }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('/').and_then(|(address, bits)| Some((address.parse().ok()?, bits.parse().ok()?)));
        let (address, bits) = parts.filter(|(_, bits)| *bits <= 32).ok_or_else(|| Error::Range(text.into()))?;
        Ok(Self { address, bits })
    }
}

// === impl Netlink ===

impl Netlink {
    /// To the kernel, about the namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(failed("cannot open a netlink socket"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// To the kernel, about another namespace.
    pub(crate) fn open_in(namespace: &File) -> Result<Self, Error> {
        let enter = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|why| failed("cannot enter the network namespace")(why.into()))?;
            Self::open()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).expect("the thread does not panic")
    }

    /// Makes a pair of links: one here, which is up, and one in another namespace, which cannot be up before the pair is made.
    pub(crate) fn add_pair(&mut self, name: &str, peer: &str, namespace: &File) -> Result<(), Error> {
        let mut other = LinkMessage::default();
        other.attributes = vec![LinkAttribute::IfName(peer.into()), LinkAttribute::NetNsFd(namespace.as_raw_fd())];
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other)));
        self.add_link(name, vec![LinkInfo::Kind(InfoKind::Veth), data])
    }

    /// Makes a link to which each route names its own far end: VXLAN-GPE, lightweight tunnels.
    pub(crate) fn add_tunnel(&mut self, name: &str, port: u16) -> Result<(), Error> {
        let data = vec![InfoVxlan::CollectMetadata(true), InfoVxlan::Learning(false), InfoVxlan::Gpe, InfoVxlan::Port(port)];
        self.add_link(name, vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))])
    }

    fn add_link(&mut self, name: &str, info: Vec<LinkInfo>) -> Result<(), Error> {
        let mut message = up();
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::LinkInfo(info)];
        self.tell(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).map_err(failed(format!("cannot make the link {name}")))
    }

    /// That there is none is no error.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let told = self.tell(RouteNetlinkMessage::DelLink(named(name)), 0);
        unless(told, Errno::ENODEV).map(drop).map_err(failed(format!("cannot delete the link {name}")))
    }

    pub(crate) fn index(&mut self, name: &str) -> Result<Option<Index>, Error> {
        let found = unless(self.ask(RouteNetlinkMessage::GetLink(named(name)), 0), Errno::ENODEV);
        let found = found.map_err(failed(format!("cannot find the link {name}")))?;
        Ok(found.into_iter().flatten().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Index(link.header.index)),
            _ => None,
        }))
    }

    /// The number of a link that was made before.
    pub fn made(&mut self, name: &str) -> Result<Index, Error> {
        self.index(name)?.ok_or_else(|| failed(format!("cannot find the link {name}"))(Errno::ENODEV.into()))
    }

    pub(crate) fn set_up(&mut self, index: Index) -> Result<(), Error> {
        let mut message = up();
        message.header.index = index.0;
        self.tell(RouteNetlinkMessage::SetLink(message), 0).map_err(failed("cannot set the link up"))
    }

    /// The same, and the size of its largest packet.
    pub(crate) fn set_mtu(&mut self, index: Index, mtu: u32) -> Result<(), Error> {
        let mut message = up();
        message.header.index = index.0;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.tell(RouteNetlinkMessage::SetLink(message), 0).map_err(failed(format!("cannot set the link's MTU to {mtu}")))
    }

    /// A link may have the address already.
    pub(crate) fn set_address(&mut self, index: Index, address: Ipv4Addr) -> Result<(), Error> {
        self.new_address(one_address(index, address), address)
    }

    /// The same, of an address that is to be found again by a label: the link's name, a colon and a mark, 15 bytes in all.
    pub fn set_labelled(&mut self, index: Index, address: Ipv4Addr, label: &str) -> Result<(), Error> {
        let mut message = one_address(index, address);
        message.attributes.push(AddressAttribute::Label(label.into()));
        self.new_address(message, address)
    }

    fn new_address(&mut self, message: AddressMessage, address: Ipv4Addr) -> Result<(), Error> {
        let told = self.tell(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE);
        told.map_err(failed(format!("cannot set the address {address}")))
    }

    /// That there is none is no error.
    pub fn delete_address(&mut self, index: Index, address: Ipv4Addr) -> Result<(), Error> {
        let told = self.tell(RouteNetlinkMessage::DelAddress(one_address(index, address)), 0);
        unless(told, Errno::EADDRNOTAVAIL).map(drop).map_err(failed(format!("cannot delete the address {address}")))
    }

    /// In the place of what led to the range before.
    pub(crate) fn set_route(&mut self, range: Range, target: Target) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewRoute(route(range, target));
        let told = self.tell(message, NLM_F_CREATE | NLM_F_REPLACE);
        told.map_err(failed(format!("cannot set the route to {}/{}", range.address, range.bits)))
    }

    /// That there is none is no error.
    pub(crate) fn delete_route(&mut self, range: Range) -> Result<(), Error> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader { table: RouteHeader::RT_TABLE_MAIN, scope: RouteScope::NoWhere, ..to(range) };
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(range.address))];
        let told = self.tell(RouteNetlinkMessage::DelRoute(message), 0);
        unless(told, Errno::ESRCH).map(drop).map_err(failed(format!("cannot delete the route to {}/{}", range.address, range.bits)))
    }

    /// The addresses that are good beyond their link and this node.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let links = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP).map_err(failed("cannot list links"))?;
        let links: BTreeMap<Index, (String, u32)> = links.into_iter().filter_map(of_link).collect();
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let addresses = self.ask(all, NLM_F_DUMP).map_err(failed("cannot list addresses"))?;
        Ok(addresses.into_iter().filter_map(|message| of_address(&message, &links)).collect())
    }

    fn tell(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// What the kernel answers to a message, up to the end of its answer.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let is_many = flags & (NLM_F_DUMP | NLM_F_ACK) != 0;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let length = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut rest = &buffer[..length.min(ANSWER_BYTES)];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages begin at multiples of four bytes.
                rest = rest.get((answer.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
                match answer.payload {
                    _ if answer.header.sequence_number != self.sequence => {}
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(end) if end.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(end) => return Err(end.to_io()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
            if !is_many && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// Nothing where the kernel says that there is none.
fn unless<T>(answered: io::Result<T>, none: Errno) -> io::Result<Option<T>> {
    match answered {
        Err(why) if why.raw_os_error() == Some(none as i32) => Ok(None),
        answered => answered.map(Some),
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    message
}

fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    message
}

fn one_address(index: Index, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index.0;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    message
}

fn to(range: Range) -> RouteHeader {
    RouteHeader { address_family: AddressFamily::Inet, destination_prefix_length: range.bits, ..RouteHeader::default() }
}

fn route(range: Range, target: Target) -> RouteMessage {
    let scope = if matches!(target, Target::Gateway(_)) { RouteScope::Universe } else { RouteScope::Link };
    let mut message = RouteMessage::default();
    message.header =
        RouteHeader { table: RouteHeader::RT_TABLE_MAIN, protocol: RouteProtocol::Boot, scope, kind: RouteType::Unicast, ..to(range) };
    if range.bits > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(range.address)));
    }
    match target {
        Target::Link(index) => message.attributes.push(RouteAttribute::Oif(index.0)),
        Target::Gateway(address) => message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(address))),
        Target::Tunnel(index, end) => {
            let ends = [RouteIpTunnel::Id(1), RouteIpTunnel::Destination(end)].map(RouteLwTunnelEncap::Ip).to_vec();
            let encapsulated = [RouteAttribute::EncapType(RouteLwEnCapType::Ip), RouteAttribute::Encap(ends), RouteAttribute::Oif(index.0)];
            message.attributes.extend(encapsulated);
        }
    }
    message
}

fn of_link(message: RouteNetlinkMessage) -> Option<(Index, (String, u32))> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let name = link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.clone()) } else { None });
    let mtu = link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
    link.header.flags.contains(LinkFlags::Up).then_some((Index(link.header.index), (name?, mtu?)))
}

fn of_address(message: &RouteNetlinkMessage, links: &BTreeMap<Index, (String, u32)>) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(found) = message else { return None };
    let local = found.attributes.iter().find_map(|a| if let AddressAttribute::Local(IpAddr::V4(local)) = a { Some(*local) } else { None });
    let label = found.attributes.iter().find_map(|a| if let AddressAttribute::Label(label) = a { Some(label.clone()) } else { None });
    let (link, mtu) = links.get(&Index(found.header.index)).filter(|_| found.header.scope == AddressScope::Universe)?;
    let range = Range { address: local?, bits: found.header.prefix_len };
    Some(Address { link: link.clone(), mtu: *mtu, range, label: label.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_addresses_and_the_bits_that_they_share() {
        let check = |text: &str, expected: Option<([u8; 4], u8)>| {
            let parsed = Range::parse(text).ok().map(|range| (range.address.octets(), range.bits));
            assert_eq!(parsed, expected, "{text}");
        };
        check("10.244.1.0/24", Some(([10, 244, 1, 0], 24)));
        check("10.244.1.7/32", Some(([10, 244, 1, 7], 32)));
        for wrong in ["10.244.1.0", "10.244.1.0/33", "10.244.1/24", "fd00::/64", ""] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_kernel_tells_the_loopback_link_by_its_name_and_of_none_that_is_not_there() {
        let mut netlink = Netlink::open().expect("a netlink socket");
        assert_eq!(netlink.index("lo").expect("an answer"), Some(LOOPBACK));
        assert_eq!(netlink.index("none-of-that").expect("an answer"), None);
        // Its own addresses are good for this node only.
        assert!(netlink.addresses().expect("a list").iter().all(|address| address.link != "lo"));
    }
}
