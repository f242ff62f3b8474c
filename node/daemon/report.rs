//! Every node tells the leader that it lives, five times a second, on one long-lived stream, and is answered that its lease
//! goes on (`skein_lead::granted`).

use std::time::Duration;

use prost::Message;
use skein_kubelet::{Lease, Stats, since_boot};
use skein_lead::{Log, Reports};
use skein_peer::{Channel, FRAME_BYTES_MAX, Grant, NodeReport};
use skein_quic::{Endpoint, Stream};
use skein_store::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

const INTERVAL: Duration = Duration::from_millis(200);

/// A stream that takes nothing for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// So long a node that lags behind the leader is waited for; the next grant says where the leader is then.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often a lease is granted anew: often enough for what it lasts.
const GRANTS: Duration = Duration::from_secs(1);

/// A grant is small.
const GRANT_BYTES_MAX: usize = 64;

/// Who reports, and what it has measured.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) stats: Stats,
    /// What a node without Pods has no use for.
    pub(crate) lease: Option<Lease>,
}

/// A stream to the leader, and the task that takes its answers.
struct Line {
    send: WriteHalf<Stream>,
    answers: JoinHandle<()>,
}

/// Reports to whoever leads, for as long as the node runs.
pub(crate) async fn send(store: Handle, endpoint: Endpoint, source: Source, reports: Reports) {
    let Source { name, stats, lease } = source;
    let mut line: Option<Line> = None;
    let mut to = None;
    let mut told = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let leadership = store.leadership();
        if leadership.is_self {
            reports.heard(&name);
            let now = since_boot();
            if let Some((lease, granted)) = lease.as_ref().zip(skein_lead::granted(&store, &name)) {
                prolong(lease, now.saturating_sub(granted.age));
            }
            if let Some(usage) = stats.newest().filter(|usage| usage.time_ms != told) {
                told = usage.time_ms;
                reports.used(&name, (*usage).clone());
            }
            (line, to) = (None, None);
            continue;
        }
        if to != leadership.leader {
            (line, to, told) = (None, leadership.leader, 0);
        }
        let Some(leader) = leadership.leader.and_then(|id| store.member(id)) else { continue };
        if line.is_none() {
            let stream = endpoint.open(&leader.name, &leader.address, Channel::Report).await.ok();
            line = stream.map(|stream| Line::of(stream, store.clone(), lease.clone()));
        }
        let Some(open) = &mut line else { continue };
        // A measurement is told once to each leader.
        let news = stats.newest().filter(|usage| usage.time_ms != told);
        let usage = news.as_deref().cloned();
        let sent_ns = lease.as_ref().map_or(0, |_| u64::try_from(since_boot().as_nanos()).unwrap_or(0));
        let report = NodeReport { node: name.clone(), applied: store.local().applied, usage, sent_ns, follows: store.follows() };
        if !matches!(tokio::time::timeout(WRITE_TIMEOUT, write(&mut open.send, &report)).await, Ok(Ok(()))) {
            line = None;
        } else if let Some(news) = news {
            told = news.time_ms;
        }
    }
}

/// Takes the reports of one peer. A node reports for itself only: its name is its certificate's.
pub(crate) async fn receive(peer: &str, stream: Stream, reports: &Reports, store: &Handle) {
    let (mut recv, mut send) = tokio::io::split(stream);
    let mut answered: Option<Instant> = None;
    while let Some(report) = read::<NodeReport>(&mut recv, FRAME_BYTES_MAX).await {
        if report.node != peer {
            continue;
        }
        reports.heard(peer);
        reports.has(peer, Log { applied: report.applied, follows: report.follows });
        if let Some(usage) = report.usage {
            reports.used(peer, usage);
        }
        if report.sent_ns == 0 || answered.is_some_and(|at| at.elapsed() < GRANTS) {
            continue;
        }
        let Some(granted) = skein_lead::granted(store, peer) else { continue };
        let age_ns = u64::try_from(granted.age.as_nanos()).unwrap_or(u64::MAX);
        let grant = Grant { sent_ns: report.sent_ns, applied: granted.applied, age_ns };
        answered = Some(Instant::now());
        // Who does not read the answers goes on reporting.
        let _ = tokio::time::timeout(INTERVAL, write(&mut send, &grant)).await;
    }
}

fn prolong(lease: &Lease, since: Duration) {
    if let Err(why) = lease.prolong(since) {
        warn!(%why, "the node's lease cannot be written: Pods that must not run twice end with it");
    }
}

async fn write(to: &mut WriteHalf<Stream>, message: &impl Message) -> std::io::Result<()> {
    let bytes = message.encode_to_vec();
    to.write_u32(u32::try_from(bytes.len()).unwrap_or(0)).await?;
    to.write_all(&bytes).await
}

/// `None` at the end, or where it is no such message.
async fn read<T: Message + Default>(from: &mut ReadHalf<Stream>, bytes_max: usize) -> Option<T> {
    let length = from.read_u32().await.ok()? as usize;
    if length > bytes_max {
        return None;
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await.ok()?;
    T::decode(bytes.as_slice()).ok()
}

// === impl Line ===

impl Line {
    fn of(stream: Stream, store: Handle, lease: Option<Lease>) -> Self {
        let (mut recv, send) = tokio::io::split(stream);
        let answers = tokio::spawn(async move {
            let Some(lease) = lease else { return };
            let mut view = store.watch();
            while let Some(grant) = read::<Grant>(&mut recv, GRANT_BYTES_MAX).await {
                let known = view.wait_for(|view| view.applied >= grant.applied);
                if matches!(tokio::time::timeout(CATCH_UP, known).await, Ok(Ok(_))) {
                    prolong(&lease, Duration::from_nanos(grant.sent_ns.saturating_sub(grant.age_ns)));
                }
            }
        });
        Self { send, answers }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.answers.abort();
    }
}
