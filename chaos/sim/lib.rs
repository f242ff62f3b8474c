//! A whole cluster in one thread, from one seed.
//!
//! ```text
//!   seed ──▶ faults, latencies, load, crashes ──▶ nodes: the store as it is, on a simulated disk and network
//!                                                   │
//!                    tokio's paused clock           └──Observation──▶ invariants ──▶ Report
//! ```
//!
//! Real are `raft/state`, `raft/log` without RocksDB, `raft/store` and openraft, and `scheduler`, whole: whoever is
//! elected runs the scheduler and the controllers. A node's tasks run on a [`host`] that can be paused or killed between
//! any two of their steps. Time is virtual: it goes on when nothing is left to do now. Simulated are the disk, which
//! forgets what was not synced, the network, which delays, stalls and resets, the [`kubelet`] with what it runs, and the
//! [`users`], who write what the API would have them write.
//!
//! **Invariant:** one seed is one run. Whatever is random comes from the seed, and nothing iterates over a `HashMap`;
//! the report has a fingerprint of all observations, by which a test compares two runs.

mod cluster;
mod disk;
mod fault;
mod host;
mod kubelet;
mod leading;
mod load;
mod machine;
mod network;
mod recorder;
mod rest;
mod users;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use skein_invariant::Violation;
use tokio::runtime::{Builder, RngSeed};

use cluster::Cluster;
pub use fault::{Fault, Scheduled};

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub nodes: u64,
    /// Virtual seconds with faults; healing comes after them.
    pub seconds: u64,
    pub clients: u64,
    pub faults: usize,
    /// How long the farthest way between two nodes is, one way.
    pub latency_ms: u64,
    /// What a sync costs on a disk in good health.
    pub sync_ms: u64,
    /// Whether the last node is a witness.
    pub witness: bool,
}

/// What a run was and what came of it.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub faults: Vec<Scheduled>,
    pub operations: u64,
    pub acknowledged: u64,
    pub revision: u64,
    pub elections: u64,
    pub events: u64,
    pub fingerprint: u64,
    pub verdict: Result<(), Violation>,
}

/// How long a cluster may take to heal once the last fault is over.
pub(crate) const HEAL_MAX: Duration = Duration::from_secs(20);

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 6, seconds: 60, clients: 8, faults: 8, latency_ms: 3, sync_ms: 1, witness: false }
    }
}

/// Runs one seed to its end, or to the first violation.
pub fn run(seed: u64, options: Options) -> Report {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without drivers can be built");
    runtime.block_on(simulate(seed, options))
}

async fn simulate(seed: u64, options: Options) -> Report {
    let mut random = SmallRng::seed_from_u64(seed);
    let faults = fault::plan(&mut random, options);
    let cluster = Cluster::new(random.random(), options);
    let recorder = cluster.recorder.clone();
    let broken = recorder.clone();
    let all = async {
        cluster.found().await;
        let load = load::start(&cluster, &mut random, options.clients);
        let users = tokio::spawn(users::work(cluster.clone(), SmallRng::seed_from_u64(random.random())));
        fault::play(&cluster, &faults, Duration::from_secs(options.seconds)).await;
        users.abort();
        load.stop().await;
        rest::heal(&cluster, HEAL_MAX).await;
    };
    tokio::select! {
        biased;
        () = broken.violated() => {}
        () = all => recorder.finish(),
    }
    cluster.dissolve();
    recorder.report(seed, faults)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// Seeds that once broke an invariant, and what it was.
    const KNOWN: &[u64] = &[
        // A leader that restarted within its term answered reads from before its last commits.
        1,
    ];
    const FIXED: std::ops::Range<u64> = 100..110;
    const FRESH: u64 = 4;

    fn check(seed: u64, options: Options) {
        let report = run(seed, options);
        assert!(report.verdict.is_ok(), "{:?}; again: skein-sim --seed {seed}; faults: {:?}", report.verdict, report.faults);
        assert!(report.acknowledged > 500, "{} of {} operations were answered: {report:?}", report.acknowledged, report.operations);
    }

    #[test]
    fn known_seeds_hold() {
        KNOWN.iter().for_each(|seed| check(*seed, Options::default()));
    }

    /// A leader whose disk was full led on for ever in its own eyes, and did nothing else.
    #[test]
    fn a_leader_whose_store_has_stopped_leads_no_more() {
        for seed in [6, 13] {
            let report = run(seed, Options { seconds: 10, faults: 4, ..Options::default() });
            assert!(report.verdict.is_ok(), "{report:?}");
        }
    }

    #[test]
    fn a_fixed_set_holds() {
        FIXED.for_each(|seed| check(seed, Options::default()));
    }

    #[test]
    fn fresh_seeds_hold() {
        let now = Timestamp::now().as_second().unsigned_abs();
        (now..now + FRESH).for_each(|seed| check(seed, Options::default()));
    }

    #[test]
    fn small_and_large_clusters_hold() {
        for nodes in [3, 4, 6, 7, 9] {
            check(nodes, Options { nodes, seconds: 30, ..Options::default() });
        }
    }

    #[test]
    fn two_nodes_and_a_witness_hold() {
        (200..208).for_each(|seed| check(seed, Options { nodes: 3, witness: true, ..Options::default() }));
    }

    /// Where a round trip or a sync takes longer than the time-outs of a LAN, the clusters' clocks must go slower.
    #[test]
    fn far_and_slow_clusters_hold() {
        for (latency_ms, sync_ms) in [(60, 1), (150, 20), (400, 1), (3, 80), (3, 400), (150, 400)] {
            let report = run(latency_ms + sync_ms, Options { latency_ms, sync_ms, seconds: 30, faults: 4, ..Options::default() });
            assert!(report.verdict.is_ok(), "{:?}; {report:?}", report.verdict);
            assert!(report.elections < 12, "{report:?}");
        }
    }

    /// Not among the faults: what such a node answers until it notices is wrong, and no invariant could hold.
    #[test]
    fn a_node_whose_state_is_false_notices_and_takes_that_of_the_others() {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without drivers can be built");
        runtime.block_on(async {
            let cluster = Cluster::new(7, Options { nodes: 3, ..Options::default() });
            cluster.found().await;
            rest::heal(&cluster, HEAL_MAX).await;
            let digests =
                || cluster.full_ids().map(|id| cluster.at(id).map(|running| running.store.local().state.digest())).collect::<Vec<_>>();
            let agree = || digests().windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1]);
            let within = async |what: &str, seconds: u64| {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
                while !agree() {
                    assert!(tokio::time::Instant::now() < deadline, "{what}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            within("all have the same at first", 10).await;
            for node in [3, 1] {
                cluster.crash(node);
                assert!(cluster.falsify(node).await);
                cluster.start(node).await;
                assert!(!agree(), "node {node} begins with what its disk says");
                within("it notices and takes what is right", 60).await;
                rest::heal(&cluster, HEAL_MAX).await;
            }
        });
    }

    /// What the leader of a quiet cluster sends in ten seconds in which `WRITES` objects are written, and all nodes get them.
    fn sent_by_leader(nodes: u64) -> u64 {
        const WRITES: u64 = 200;
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without drivers can be built");
        runtime.block_on(async {
            let cluster = Cluster::new(nodes, Options { nodes, ..Options::default() });
            cluster.found().await;
            let fed = |leader: &skein_store::Handle| leader.members().iter().filter(|m| m.role != skein_store::Role::Replica).count();
            // Seven voters and two standbys: the others are left to each other, one after the other.
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20 + 2 * nodes);
            let leader = loop {
                let leader = cluster.leader().filter(|leader| fed(&leader.store) == 9);
                if let Some(leader) = leader {
                    break leader.store;
                }
                assert!(tokio::time::Instant::now() < deadline, "{:?}", cluster.leader().map(|leader| fed(&leader.store)));
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            rest::heal(&cluster, HEAL_MAX).await;
            let (id, before) = (leader.id(), cluster.network.sent(leader.id()));
            for write in 0..WRITES {
                let key = skein_object::Key::new("rests.sim", "", &format!("write-{write}"));
                let record = skein_object::Record::from_value(&serde_json::json!({"spec": {"text": "x".repeat(1000)}}));
                leader.propose(skein_command::Write::create(&key, record).into()).await.expect("there is a quorum");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let sent = cluster.network.sent(id) - before;
            let revision = leader.revision();
            for node in cluster.ids() {
                let store = cluster.at(node).expect("all are up").store;
                assert!(store.wait_revision(revision, Duration::from_secs(2)).await.is_some(), "node {node} lags");
            }
            cluster.dissolve();
            sent
        })
    }

    #[test]
    fn a_leader_feeds_no_more_nodes_where_there_are_many() {
        let (few, many) = (sent_by_leader(26), sent_by_leader(60));
        assert!(many < few + few / 5, "{few} bytes with 26 nodes, {many} with 60");
    }

    #[test]
    fn one_seed_is_one_run() {
        let twice = [run(3, Options::default()), run(3, Options::default())];
        assert_eq!(twice[0].fingerprint, twice[1].fingerprint);
        assert_ne!(twice[0].fingerprint, run(4, Options::default()).fingerprint);
    }
}
