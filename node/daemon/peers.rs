//! The store's way to other nodes, over QUIC.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use skein_peer::Channel;
use skein_quic::Endpoint;
use skein_store::{Duplex, Handle, Member, MemberStatus, Peers};

/// How often it is seen to that voters are connected.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct QuicPeers(pub(crate) Endpoint);

#[async_trait]
impl Peers for QuicPeers {
    async fn open(&self, peer: &Member, channel: Channel) -> io::Result<Box<dyn Duplex>> {
        let stream = self.0.open(&peer.name, &peer.address, channel).await?;
        Ok(Box::new(stream))
    }
}

/// Keeps a voter connected to all others that vote: whoever is elected has no time for handshakes.
pub(crate) async fn keep_ready(store: Handle, endpoint: Endpoint) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let voters: Vec<MemberStatus> = store.members().into_iter().filter(|member| member.role.votes()).collect();
        if !voters.iter().any(|voter| voter.id == store.id()) {
            continue;
        }
        let others = voters.iter().filter(|voter| voter.id != store.id());
        // Who cannot be reached is tried again.
        join_all(others.map(|voter| endpoint.ready(&voter.member.name, &voter.member.address))).await;
    }
}
