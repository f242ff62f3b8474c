//! What goes wrong, and when: decided from the seed before the run, played during it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use skein_log::{Host, NodeId, hosted};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Options;
use crate::cluster::Cluster;
use crate::host::Life;
use crate::network::{Running, Way};

#[derive(Clone, Debug)]
pub enum Fault {
    /// Power fails; the node is back when the fault ends.
    Crash(NodeId),
    /// The daemon is killed, and is back when the fault ends; containers run on.
    Kill(NodeId),
    /// Power fails for all at once.
    Blackout,
    /// Nodes crash and are back at once, one after the other: elections in the middle of elections.
    Flicker,
    /// The process stands still, timers included.
    Pause(NodeId),
    /// Two sides cannot reach each other.
    Partition(Vec<NodeId>),
    /// One direction of one link is gone.
    OneWay(Way),
    /// Links are slow and lose packets.
    Storm { latency_ms_max: u64, lost_permille: u32 },
    /// Every sync of a node takes this much longer.
    SlowDisk(NodeId, Duration),
    /// A node's disk takes nothing more; the daemon starts anew when there is room.
    FullDisk(NodeId),
    /// A node's clock goes wrong: so many milliseconds in a second.
    Drift(NodeId, u32),
    /// A node's clock leaps ahead.
    Leap(NodeId, Duration),
    /// The leader lets another lead, as one does that is stopped in order.
    Handover,
}

#[derive(Clone, Debug)]
pub struct Scheduled {
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

pub(crate) fn plan(random: &mut SmallRng, options: Options) -> Vec<Scheduled> {
    let end_ms = options.seconds * 1000;
    let mut faults: Vec<Scheduled> = (0..options.faults)
        .map(|_| {
            let at = Duration::from_millis(random.random_range(2000..end_ms.max(2001)));
            let lasts = Duration::from_millis(random.random_range(50..10_000));
            Scheduled { at, lasts, fault: draw(random, options.nodes) }
        })
        .collect();
    faults.sort_by_key(|scheduled| scheduled.at);
    faults
}

fn draw(random: &mut SmallRng, nodes: u64) -> Fault {
    let node = random.random_range(1..=nodes);
    let other = 1 + (node + random.random_range(0..nodes - 1)) % nodes;
    match random.random_range(0..21) {
        0..3 => Fault::Crash(node),
        3 => Fault::Flicker,
        4..6 => Fault::Blackout,
        6..8 => Fault::Pause(node),
        8..11 => Fault::Partition((1..=nodes).filter(|_| random.random_bool(0.5)).collect()),
        11..13 => Fault::OneWay((node, other)),
        13 => Fault::Storm { latency_ms_max: random.random_range(10..120), lost_permille: random.random_range(0..100) },
        14 => Fault::SlowDisk(node, Duration::from_millis(random.random_range(10..1500))),
        15 => Fault::FullDisk(node),
        16 => Fault::Drift(node, random.random_range(500..2000)),
        17..19 => Fault::Kill(node),
        19 => Fault::Leap(node, Duration::from_millis(random.random_range(10..5000))),
        _ => Fault::Handover,
    }
}

/// Plays all faults, each in its own task, and returns when the time is over and the last has ended.
pub(crate) async fn play(cluster: &Cluster, faults: &[Scheduled], length: Duration) {
    let begin = Instant::now();
    let tasks: Vec<_> = faults
        .iter()
        .cloned()
        .map(|scheduled| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                sleep_until(begin + scheduled.at).await;
                suffer(&cluster, &scheduled.fault, scheduled.lasts).await;
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    sleep_until(begin + length).await;
}

async fn suffer(cluster: &Cluster, fault: &Fault, lasts: Duration) {
    match fault {
        Fault::Crash(node) => {
            cluster.crash(*node);
            sleep(lasts).await;
            cluster.start(*node).await;
        }
        Fault::Kill(node) => {
            cluster.kill(*node);
            sleep(lasts).await;
            cluster.start(*node).await;
        }
        Fault::Blackout => {
            let nodes: Vec<NodeId> = cluster.ids().collect();
            nodes.iter().for_each(|node| cluster.crash(*node));
            sleep(lasts / 4).await;
            for node in nodes {
                cluster.start(node).await;
            }
        }
        Fault::Drift(node, permille) => {
            cluster.set_clock(*node, |clock| clock.set_drift(*permille));
            sleep(lasts).await;
            cluster.set_clock(*node, |clock| clock.set_drift(1000));
        }
        Fault::Leap(node, by) => cluster.set_clock(*node, |clock| clock.leap(*by)),
        Fault::Handover => hand_over(cluster),
        Fault::Flicker => flicker(cluster, Instant::now() + lasts).await,
        Fault::Pause(node) => {
            cluster.set_life(*node, Life::Paused);
            sleep(lasts).await;
            cluster.set_life(*node, Life::Running);
        }
        Fault::Partition(side) => {
            let ways: Vec<Way> = cluster
                .ids()
                .flat_map(|a| cluster.ids().map(move |b| (a, b)))
                .filter(|(a, b)| side.contains(a) != side.contains(b))
                .collect();
            cut(cluster, &ways, lasts).await;
        }
        Fault::OneWay(way) => cut(cluster, &[*way], lasts).await,
        Fault::Storm { latency_ms_max, lost_permille } => {
            cluster.network.change(|weather| (weather.latency_ms, weather.lost_permille) = ((1, *latency_ms_max), *lost_permille));
            sleep(lasts).await;
            cluster.network.calm();
        }
        Fault::SlowDisk(node, by) => {
            cluster.set_disk(*node, |disk| disk.set_slow(*by));
            sleep(lasts).await;
            cluster.set_disk(*node, |disk| disk.set_slow(Duration::ZERO));
        }
        Fault::FullDisk(node) => {
            cluster.set_disk(*node, |disk| disk.set_full(true));
            sleep(lasts).await;
            cluster.set_disk(*node, |disk| disk.set_full(false));
            if cluster.at(*node).is_some_and(|running| running.store.failure().is_some()) {
                cluster.crash(*node);
                cluster.start(*node).await;
            }
        }
    }
}

/// The handover may outlive the fault, or end with its process.
fn hand_over(cluster: &Cluster) {
    if let Some(Running { process, store, .. }) = cluster.leader() {
        let host: Arc<dyn Host> = process;
        tokio::spawn(hosted(host, async move { store.hand_over().await }));
    }
}

async fn flicker(cluster: &Cluster, end: Instant) {
    let nodes: Vec<NodeId> = cluster.ids().collect();
    while Instant::now() < end {
        let (node, up_ms, down_ms) = {
            let mut random = cluster.random();
            (nodes[random.random_range(0..nodes.len())], random.random_range(1..300), random.random_range(1..60))
        };
        sleep(Duration::from_millis(up_ms)).await;
        cluster.crash(node);
        sleep(Duration::from_millis(down_ms)).await;
        cluster.start(node).await;
    }
}

async fn cut(cluster: &Cluster, ways: &[Way], lasts: Duration) {
    cluster.network.change(|weather| weather.cut.extend(ways));
    sleep(lasts).await;
    cluster.network.change(|weather| weather.cut.retain(|way| !ways.contains(way)));
}
