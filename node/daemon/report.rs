//! Every node tells the leader that it lives, ten times a second, on one long-lived stream.

use std::time::Duration;

use prost::Message;
use skein_kubelet::Stats;
use skein_lead::Reports;
use skein_peer::{Channel, FRAME_BYTES_MAX, NodeReport};
use skein_quic::Endpoint;
use skein_store::{Duplex, Handle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const INTERVAL: Duration = Duration::from_millis(100);

/// Who reports, and what it has measured.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) stats: Stats,
}

/// Reports to whoever leads, for as long as the node runs.
pub(crate) async fn send(store: Handle, endpoint: Endpoint, Source { name, stats }: Source, reports: Reports) {
    let mut stream = None;
    let mut to = None;
    let mut told = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let leadership = store.leadership();
        if leadership.is_self {
            reports.heard(&name);
            if let Some(usage) = stats.newest().filter(|usage| usage.time_ms != told) {
                told = usage.time_ms;
                reports.used(&name, (*usage).clone());
            }
            to = None;
            continue;
        }
        if to != leadership.leader {
            (stream, to, told) = (None, leadership.leader, 0);
        }
        let Some(leader) = leadership.leader.and_then(|id| store.member(id)) else { continue };
        if stream.is_none() {
            stream = endpoint.open(&leader.name, &leader.address, Channel::Report).await.ok();
        }
        let Some(open) = &mut stream else { continue };
        // A measurement is told once to each leader.
        let news = stats.newest().filter(|usage| usage.time_ms != told);
        let usage = news.as_deref().cloned();
        let report = NodeReport { node: name.clone(), applied: store.local().applied, usage };
        let message = report.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(0);
        let sent = async {
            open.write_u32(length).await?;
            open.write_all(&message).await
        };
        if !matches!(tokio::time::timeout(INTERVAL * 5, sent).await, Ok(Ok(()))) {
            stream = None;
        } else if let Some(news) = news {
            told = news.time_ms;
        }
    }
}

/// Takes the reports of one peer. A node reports for itself only: its name is its certificate's.
pub(crate) async fn receive(peer: &str, mut stream: Box<dyn Duplex>, reports: &Reports) {
    while let Ok(length) = stream.read_u32().await {
        let length = length as usize;
        if length > FRAME_BYTES_MAX {
            return;
        }
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let Some(report) = NodeReport::decode(message.as_slice()).ok().filter(|report| report.node == peer) else { continue };
        reports.heard(peer);
        if let Some(usage) = report.usage {
            reports.used(peer, usage);
        }
    }
}
