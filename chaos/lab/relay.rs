//! Carries frames over links that are long or lossy, in a process of its own. Not every kernel has netem.
//!
//! ```text
//!   node-1 ── skl1 ──┬── bridge: what is not shaped      (nftables drops the rest)
//!                    └── relay: waits, loses ── skl2 ── node-2
//! ```
//!
//! It sees what the bridge sees, with the kernel's header for offloads before each frame, so that large segments and
//! unfinished checksums pass as they are. Where a hardware address is unknown, frames go to every node, as in a bridge.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket};
use nix::{libc, setsockopt_impl, sockopt_impl};
use rand::RngExt;

use crate::Node;
use crate::links::{Links, Shape};
use crate::network::outer_link;

/// How soon a change of the file is followed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What may be on its way; what comes beyond that is lost, as in any queue.
const BYTES_MAX: usize = 64 << 20;

/// The largest segment that offloads make, and the headers before it.
const FRAME_BYTES_MAX: usize = 68 << 10;

/// `virtio_net_hdr` (linux/virtio_net.h), which stands before each frame.
const OFFLOAD_BYTES: usize = 10;
const PACKET_OUTGOING: u8 = 4;

sockopt_impl!(
    /// Frames come and go with their offloads (linux/if_packet.h).
    Offloads,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    i32
);

type Hardware = [u8; 6];

struct Relay {
    sockets: BTreeMap<usize, OwnedFd>,
    queue: Mutex<Queue>,
    /// Somebody has put a frame first.
    sooner: Condvar,
}

#[derive(Default)]
struct Queue {
    links: Links,
    /// Which node has which address.
    owners: BTreeMap<Hardware, usize>,
    waiting: BinaryHeap<Reverse<Frame>>,
    bytes: usize,
    /// When the last frame of each way is due: none overtakes another.
    last: BTreeMap<(usize, usize), Instant>,
    count: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    due: Instant,
    number: u64,
    to: usize,
    bytes: Arc<[u8]>,
}

/// Carries until it is killed.
pub(crate) fn run(nodes: &[Node], file: &Path) -> Result<()> {
    let sockets = nodes.iter().map(|node| Ok((node.index, listen(&outer_link(node))?))).collect::<Result<_>>()?;
    let relay = Arc::new(Relay { sockets, queue: Mutex::default(), sooner: Condvar::new() });
    for index in relay.sockets.keys().copied() {
        let relay = Arc::clone(&relay);
        std::thread::Builder::new().name(format!("node-{index}")).spawn(move || relay.receive(index))?;
    }
    relay.deliver(file)
}

fn listen(link: &str) -> Result<OwnedFd> {
    let links = nix::ifaddrs::getifaddrs().context("cannot list the interfaces")?;
    let address = links.filter(|l| l.interface_name == link).find_map(|l| l.address?.as_link_addr().copied());
    let address = address.with_context(|| format!("there is no interface {link}"))?;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .with_context(|| format!("cannot listen on {link}"))?;
    setsockopt(&fd, Offloads, &1).context("the kernel does not say what is offloaded")?;
    bind(fd.as_raw_fd(), &address).with_context(|| format!("cannot listen on {link}"))?;
    Ok(fd)
}

// === impl Relay ===

impl Relay {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, from: usize) {
        let Some(fd) = self.sockets.get(&from) else { return };
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            // An error is that of a link which is down for now.
            let Ok((count, Some(address))) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer) else {
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            };
            if address.pkttype() != PACKET_OUTGOING && self.queue().take(from, &buffer[..count], Instant::now()) {
                self.sooner.notify_one();
            }
        }
    }

    fn deliver(&self, file: &Path) -> Result<()> {
        let mut read: Option<SystemTime> = None;
        let mut looked = Instant::now();
        let mut queue = self.queue();
        loop {
            if read.is_none() || looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                let changed = std::fs::metadata(file).and_then(|found| found.modified()).ok();
                if changed != read || read.is_none() {
                    queue.links = Links::read(file)?;
                    read = changed;
                }
            }
            let now = Instant::now();
            while let Some(frame) = queue.due(now) {
                if let Some(fd) = self.sockets.get(&frame.to) {
                    let _ = send(fd.as_raw_fd(), &frame.bytes, MsgFlags::empty());
                }
            }
            let next = queue.waiting.peek().map_or(LOOK_INTERVAL, |Reverse(frame)| frame.due.saturating_duration_since(now));
            queue = self.sooner.wait_timeout(queue, next.min(LOOK_INTERVAL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

// === impl Queue ===

impl Queue {
    /// Takes a frame that a node has sent; whether somebody must wake up for it.
    fn take(&mut self, from: usize, frame: &[u8], now: Instant) -> bool {
        let Some((to, sender)) = addresses(frame) else { return false };
        self.owners.insert(sender, from);
        let owner = self.owners.get(&to).copied();
        let ways: Vec<(usize, Shape)> =
            self.links.carried(from).into_iter().filter(|(to, _)| owner.is_none_or(|owner| owner == *to)).collect();
        if ways.is_empty() {
            return false;
        }
        let bytes: Arc<[u8]> = frame.into();
        let before = self.waiting.peek().map(|Reverse(frame)| frame.due);
        for (to, shape) in ways {
            self.enqueue((from, to), shape, &bytes, now);
        }
        self.waiting.peek().map(|Reverse(frame)| frame.due) != before
    }

    fn enqueue(&mut self, way: (usize, usize), shape: Shape, bytes: &Arc<[u8]>, now: Instant) {
        let mut random = rand::rng();
        if random.random_range(0..1000) < shape.lost_permille || self.bytes + bytes.len() > BYTES_MAX {
            return;
        }
        let due = self.last.get(&way).copied().unwrap_or(now).max(now + shape.delay(random.random()));
        self.last.insert(way, due);
        self.count += 1;
        self.bytes += bytes.len();
        self.waiting.push(Reverse(Frame { due, number: self.count, to: way.1, bytes: Arc::clone(bytes) }));
    }

    fn due(&mut self, now: Instant) -> Option<Frame> {
        self.waiting.peek().filter(|Reverse(frame)| frame.due <= now)?;
        let Reverse(frame) = self.waiting.pop()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }
}

/// Whom a frame is for, and who sent it.
fn addresses(frame: &[u8]) -> Option<(Hardware, Hardware)> {
    let at = |start: usize| frame.get(start..start + 6)?.try_into().ok();
    Some((at(OFFLOAD_BYTES)?, at(OFFLOAD_BYTES + 6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        [&[0; OFFLOAD_BYTES][..], &[to; 6], &[from; 6], b"payload"].concat()
    }

    #[test]
    fn frames_wait_their_time_and_none_overtakes_another() {
        let mut queue = Queue::default();
        let nodes: Vec<Vec<Node>> = (1..=3).map(|index| vec![Node::new(index)]).collect();
        queue.links.shape(&nodes, Shape { delay_ms: 50, jitter_ms: 20, lost_permille: 0 });
        let begin = Instant::now();
        assert!(queue.take(2, &frame(0xff, 2), begin), "a broadcast goes to all, and tells whose address it comes from");
        assert!(queue.due(begin + Duration::from_millis(49)).is_none());
        let due =
            |queue: &mut Queue, ms| std::iter::from_fn(|| queue.due(begin + Duration::from_millis(ms)).map(|f| f.to)).collect::<Vec<_>>();
        let mut reached = due(&mut queue, 70);
        reached.sort_unstable();
        assert_eq!(reached, [1, 3]);
        for number in 0..100 {
            let sent = [frame(2, 1), vec![number]].concat();
            queue.take(1, &sent, begin + Duration::from_millis(number.into()));
        }
        let order: Vec<u8> = std::iter::from_fn(|| queue.due(begin + Duration::from_secs(1)))
            .map(|frame| frame.bytes.last().copied().unwrap_or_default())
            .collect();
        assert_eq!(order, (0..100).collect::<Vec<u8>>(), "only to the node whose address it is, and in order");
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn what_is_lost_or_cut_does_not_arrive() {
        let mut queue = Queue::default();
        let nodes: Vec<Vec<Node>> = (1..=2).map(|index| vec![Node::new(index)]).collect();
        queue.links.shape(&nodes, Shape { delay_ms: 1, jitter_ms: 0, lost_permille: 300 });
        let begin = Instant::now();
        let woken = (0..1000).filter(|_| queue.take(1, &frame(0xff, 1), begin)).count();
        assert_eq!(woken, 1, "only the first is due before all others");
        assert!((550..850).contains(&queue.waiting.len()), "{}", queue.waiting.len());
        queue.waiting.clear();
        queue.links.partition(&nodes);
        assert!(!queue.take(1, &frame(0xff, 1), begin));
    }
}
