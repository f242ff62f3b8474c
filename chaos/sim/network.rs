//! A network that delays, stalls and resets. Streams are reliable, as QUIC's are: what is lost is sent again, later.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use skein_lead::Reports;
use skein_log::{Member, NodeId};
use skein_peer::Channel;
use skein_store::{Duplex, Handle, Peers};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::Options;
use crate::host::{Life, Process};
use crate::machine::Machine;

/// After this long without a way through, a connection is given up: quinn's idle time-out.
const IDLE: Duration = Duration::from_secs(3);
/// What a lost packet costs: the sender notices after about this many round trips.
const LOSS_PENALTY: u32 = 3;
const BUFFER_BYTES: usize = 64 << 10;

/// A node that is up.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) process: Arc<Process>,
    pub(crate) store: Handle,
    /// What it has heard of others, should it lead.
    pub(crate) reports: Reports,
    pub(crate) machine: Arc<Machine>,
}

/// One way between two nodes.
pub(crate) type Way = (NodeId, NodeId);

#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    nodes: Mutex<Vec<Option<Running>>>,
    weather: watch::Sender<Weather>,
    calm: Weather,
    random: Mutex<SmallRng>,
    /// How many bytes each node has sent.
    sent: Mutex<BTreeMap<NodeId, u64>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) cut: BTreeSet<Way>,
    pub(crate) latency_ms: (u64, u64),
    /// Of a thousand chunks, how many are lost once.
    pub(crate) lost_permille: u32,
}

/// The network as one incarnation of a node sees it.
pub(crate) struct Port {
    pub(crate) network: Network,
    pub(crate) node: NodeId,
    pub(crate) process: Arc<Process>,
}

// === impl Running ===

impl Running {
    pub(crate) fn is_up(&self) -> bool {
        self.process.life() != Life::Dead
    }
}

// === impl Network ===

impl Network {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let nodes = (0..=options.nodes).map(|_| None).collect();
        let random = Mutex::new(SmallRng::seed_from_u64(seed));
        let calm = Weather { cut: BTreeSet::new(), latency_ms: (1, options.latency_ms), lost_permille: 0 };
        Self(Arc::new(Shared { nodes: Mutex::new(nodes), weather: watch::Sender::new(calm.clone()), calm, random, sent: Mutex::default() }))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.0.weather.send_modify(change);
    }

    pub(crate) fn attach(&self, node: NodeId, attached: Option<Running>) {
        let at = usize::try_from(node).expect("nodes are numbered from 1");
        self.nodes()[at] = attached;
    }

    /// Links are as they are without a fault; what is cut stays cut.
    pub(crate) fn calm(&self) {
        let Weather { latency_ms, lost_permille, .. } = self.0.calm;
        self.change(|weather| (weather.latency_ms, weather.lost_permille) = (latency_ms, lost_permille));
    }

    /// How many bytes a node has sent over its streams.
    #[cfg(test)]
    pub(crate) fn sent(&self, node: NodeId) -> u64 {
        self.0.sent.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied().unwrap_or(0)
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Option<Running>>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, node: NodeId) -> Option<Running> {
        let found = self.nodes().get(usize::try_from(node).ok()?)?.clone();
        found.filter(Running::is_up)
    }

    /// How long a chunk takes now.
    fn delay(&self) -> Duration {
        let weather = self.0.weather.borrow();
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        let one = random.random_range(weather.latency_ms.0..=weather.latency_ms.1);
        let lost = random.random_range(0..1000) < weather.lost_permille;
        Duration::from_millis(one) * if lost { 1 + 2 * LOSS_PENALTY } else { 1 }
    }

    /// Waits until there is a way; fails when there is none for too long.
    async fn passable(&self, way: Way) -> io::Result<()> {
        let mut weather = self.0.weather.subscribe();
        let open = weather.wait_for(|weather| !weather.cut.contains(&way));
        match timeout(IDLE, open).await {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Carries bytes one way until either end closes, a process dies or the way is gone for too long.
    async fn carry(self, way: Way, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) -> io::Result<()> {
        let mut chunk = vec![0; BUFFER_BYTES];
        loop {
            let count = from.read(&mut chunk).await?;
            *self.0.sent.lock().unwrap_or_else(PoisonError::into_inner).entry(way.0).or_default() += count as u64;
            sleep(self.delay()).await;
            self.passable(way).await?;
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&chunk[..count]).await?;
        }
    }

    /// Carries a small message to a node that is up: its process takes it once that runs.
    pub(crate) async fn tell(&self, way: Way) -> Option<Running> {
        sleep(self.delay()).await;
        self.passable(way).await.ok()?;
        self.at(way.1)
    }

    /// One stream: two ways, each with its own luck. Whatever ends one resets both.
    async fn connect(self, way: Way, ours: DuplexStream, channel: Channel, source: Arc<Process>) {
        sleep(self.delay()).await;
        if self.passable(way).await.is_err() {
            return;
        }
        let Some(Running { process, store, .. }) = self.at(way.1) else { return };
        let (near, theirs) = duplex(BUFFER_BYTES);
        let serving = async move {
            let refuse = |_| async { skein_peer::Response::Failed("simulated nodes know only the store".into()) };
            let _ = store.serve(channel, Box::new(theirs) as Box<dyn Duplex>, refuse).await;
        };
        tokio::spawn(skein_log::hosted(Arc::clone(&process) as Arc<dyn skein_log::Host>, serving));
        let ((our_read, our_write), (their_read, their_write)) = (split(ours), split(near));
        let there = self.clone().carry(way, our_read, their_write);
        let back = self.carry((way.1, way.0), their_read, our_write);
        tokio::select! {
            biased;
            () = source.died() => {}
            () = process.died() => {}
            _ = async { tokio::try_join!(biased; there, back) } => {}
        }
    }
}

#[async_trait]
impl Peers for Port {
    async fn open(&self, peer: &Member, channel: Channel) -> io::Result<Box<dyn Duplex>> {
        let to: NodeId = peer.address.parse().map_err(io::Error::other)?;
        let (ours, far) = duplex(BUFFER_BYTES);
        // The network is no part of the process.
        tokio::spawn(self.network.clone().connect((self.node, to), far, channel, Arc::clone(&self.process)));
        Ok(Box::new(ours))
    }
}
