//! The store's way to other nodes, over QUIC.

use std::io;

use async_trait::async_trait;
use skein_peer::Channel;
use skein_quic::Endpoint;
use skein_store::{Duplex, Member, Peers};

pub(crate) struct QuicPeers(pub(crate) Endpoint);

#[async_trait]
impl Peers for QuicPeers {
    async fn open(&self, peer: &Member, channel: Channel) -> io::Result<Box<dyn Duplex>> {
        let stream = self.0.open(&peer.name, &peer.address, channel).await?;
        Ok(Box::new(stream))
    }
}
