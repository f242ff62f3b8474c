//! The endpoint: connections to peers, streams on them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use skein_peer::{ALPN, Channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::Error;
use crate::authority::{Identity, Subject, node_dns_name};
use crate::tasks::Tasks;

/// A connection that carries nothing for this long is dead. Longer than a stall of a busy machine, shorter than what
/// anybody would wait for.
const IDLE_TIMEOUT: Duration = Duration::from_millis(2500);
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// A peer that does not believe this node's certificate says so only when the connection stands already. It is left alone
/// for so long, since it would answer the next one likewise, and both would have the work of a handshake.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// What TLS refuses a connection for, as QUIC tells of it (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// The code with which a connection to a node of an older epoch is closed; the reason is the newer epoch.
const SUPERSEDED: u32 = 2;

/// Streams that one peer may have open towards us; each is a task.
const STREAMS_MAX: u32 = 4096;

/// Streams that wait to be taken by their channel's owner.
const INCOMING_QUEUE: usize = 256;

/// What a leader sends in one go, to a follower that is busy with its log: a packet that finds no room is lost, and
/// after a loss a connection slows down to a walk.
const SOCKET_BUFFER: usize = 8 << 20;

pub struct Options {
    pub bind: SocketAddr,
    pub identity: Identity,
    /// Connections to nodes of an older epoch are closed; a node that hears of a newer one is superseded.
    pub epoch: u64,
}

/// Both halves of a QUIC stream as one reader and writer.
pub type Stream = tokio::io::Join<quinn::RecvStream, quinn::SendStream>;

/// A stream that a peer opened.
pub struct Incoming {
    /// The name of the node, from its certificate.
    pub peer: String,
    pub channel: Channel,
    pub stream: Stream,
}

/// A cheap clone.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: quinn::Endpoint,
    client: RwLock<quinn::ClientConfig>,
    peers: Mutex<HashMap<String, Peer>>,
    epoch: u64,
    /// The newest epoch that a peer has closed a connection for.
    superseded: watch::Sender<Option<u64>>,
}

/// What there is between this node and another.
#[derive(Default)]
struct Peer {
    /// The connection that this node has opened.
    ours: Option<quinn::Connection>,
    /// The one that the peer has opened.
    theirs: Option<quinn::Connection>,
    /// When the peer has refused this node's certificate.
    refused: Option<Instant>,
}

// === impl Endpoint ===

impl Endpoint {
    /// Listens, and hands out what peers open. All its work is done on the tokio runtime that this is called on.
    pub fn start(options: Options) -> Result<(Self, mpsc::Receiver<Incoming>), Error> {
        let transport = Arc::new(transport());
        let server = server_config(&options.identity, options.epoch, Arc::clone(&transport))?;
        let client = client_config(&options.identity, options.epoch, transport)?;
        let bind = |source| Error::Bind { address: options.bind, source };
        let socket = std::net::UdpSocket::bind(options.bind).map_err(bind)?;
        make_room(&socket);
        let endpoint =
            quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, Arc::new(Tasks::here())).map_err(bind)?;
        let inner = Arc::new(Inner {
            endpoint,
            client: RwLock::new(client),
            peers: Mutex::default(),
            epoch: options.epoch,
            superseded: watch::channel(None).0,
        });
        let (sender, incoming) = mpsc::channel(INCOMING_QUEUE);
        tokio::spawn(accept_loop(Arc::clone(&inner), sender));
        Ok((Self { inner }, incoming))
    }

    /// A new stream to a peer, over the connection that there is or a new one.
    pub async fn open(&self, peer: &str, address: &str, channel: Channel) -> Result<Stream, Error> {
        let unreachable = |why: String| Error::Unreachable { peer: peer.into(), address: address.into(), why };
        let connection = self.connection(peer, address).await?;
        let (mut send, recv) = match connection.open_bi().await {
            Ok(pair) => pair,
            Err(why) => {
                self.forget(peer, &connection);
                return Err(unreachable(why.to_string()));
            }
        };
        send.write_u8(channel as u8).await.map_err(|e| unreachable(e.to_string()))?;
        Ok(tokio::io::join(recv, send))
    }

    /// Sees to it that there is a connection to a peer, for the stream that is opened in a hurry.
    pub async fn ready(&self, peer: &str, address: &str) -> Result<(), Error> {
        self.connection(peer, address).await.map(drop)
    }

    /// Goes on under a renewed certificate: new connections show it, those that there are stay.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), Error> {
        let transport = Arc::new(transport());
        self.inner.endpoint.set_server_config(Some(server_config(identity, self.inner.epoch, Arc::clone(&transport))?));
        *self.inner.client.write().unwrap_or_else(PoisonError::into_inner) = client_config(identity, self.inner.epoch, transport)?;
        self.inner.peers().values_mut().for_each(|peer| peer.refused = None);
        Ok(())
    }

    /// The newer epoch that there is, as far as peers have said.
    pub fn superseded(&self) -> Option<u64> {
        *self.inner.superseded.borrow()
    }

    /// Returns when a peer says that there is a newer epoch, with its number.
    pub async fn until_superseded(&self) -> u64 {
        let mut superseded = self.inner.superseded.subscribe();
        let found = superseded.wait_for(Option::is_some).await.map(|epoch| epoch.unwrap_or_default());
        // The sender lives as long as this endpoint.
        found.unwrap_or_default()
    }

    /// Closes every connection; peers learn of it at once.
    pub fn close(&self) {
        self.inner.endpoint.close(0u32.into(), b"stopping");
    }

    async fn connection(&self, peer: &str, address: &str) -> Result<quinn::Connection, Error> {
        let unreachable = |why: String| Error::Unreachable { peer: peer.into(), address: address.into(), why };
        if let Some(known) = self.inner.peers().get(peer) {
            if let Some(connection) = known.ours.as_ref().filter(|ours| ours.close_reason().is_none()) {
                return Ok(connection.clone());
            }
            if known.refused.is_some_and(|at| at.elapsed() < REFUSED_PAUSE) {
                return Err(unreachable("it has just refused this node's certificate".into()));
            }
        }
        let target: SocketAddr = address.parse().map_err(|e| unreachable(format!("{e}")))?;
        let client = self.inner.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self.inner.endpoint.connect_with(client, target, &node_dns_name(peer)).map_err(|e| unreachable(e.to_string()))?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| unreachable("no answer".into()))?
            .map_err(|e| unreachable(e.to_string()))?;
        if !self.inner.is_of_this_epoch(&connection) {
            return Err(unreachable("it is of an older epoch of the cluster".into()));
        }
        self.inner.peers().entry(peer.into()).or_default().ours = Some(connection.clone());
        let (inner, watched, peer) = (Arc::clone(&self.inner), connection.clone(), peer.to_string());
        tokio::spawn(async move {
            let why = watched.closed().await;
            inner.ended(&why);
            if matches!(&why, quinn::ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&close.error_code.into())) {
                debug!(%peer, %why, "this node's certificate is not believed");
                inner.peers().entry(peer).or_default().refused = Some(Instant::now());
            }
        });
        Ok(connection)
    }

    fn forget(&self, peer: &str, connection: &quinn::Connection) {
        if let Some(known) = self.inner.peers().get_mut(peer) {
            known.ours.take_if(|ours| ours.stable_id() == connection.stable_id());
        }
    }
}

impl Inner {
    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a connection that a peer has opened.
    fn accepted(&self, peer: &str, connection: &quinn::Connection) {
        let mut peers = self.peers();
        let known = peers.entry(peer.into()).or_default();
        let before = known.theirs.replace(connection.clone());
        // A peer that connects while its last connection seems open has restarted or moved: what we hold towards it is
        // dead too, and nothing else would tell before the idle timeout.
        if before.is_some_and(|old| old.close_reason().is_none())
            && let Some(ours) = known.ours.take()
        {
            ours.close(0u32.into(), b"peer reconnected");
        }
    }

    /// Whether the peer is, as the handshake's protocol says; it is told if not.
    fn is_of_this_epoch(&self, connection: &quinn::Connection) -> bool {
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let agreed = data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == protocol_of(self.epoch));
        if !agreed {
            connection.close(SUPERSEDED.into(), self.epoch.to_string().as_bytes());
        }
        agreed
    }

    /// Learns from the end of a connection whether there is a newer epoch.
    fn ended(&self, why: &quinn::ConnectionError) {
        let quinn::ConnectionError::ApplicationClosed(close) = why else { return };
        let newer = std::str::from_utf8(&close.reason).ok().and_then(|text| text.parse().ok()).filter(|epoch| *epoch > self.epoch);
        if close.error_code == SUPERSEDED.into()
            && let Some(epoch) = newer
        {
            self.superseded.send_replace(Some(epoch));
        }
    }
}

async fn accept_loop(inner: Arc<Inner>, sender: mpsc::Sender<Incoming>) {
    while let Some(connecting) = inner.endpoint.accept().await {
        let inner = Arc::clone(&inner);
        let sender = sender.clone();
        tokio::spawn(async move {
            match connecting.await {
                Ok(connection) => serve(&inner, connection, sender).await,
                Err(why) => debug!(%why, "handshake failed"),
            }
        });
    }
}

async fn serve(inner: &Inner, connection: quinn::Connection, sender: mpsc::Sender<Incoming>) {
    if !inner.is_of_this_epoch(&connection) {
        return;
    }
    let Some(peer) = peer_name(&connection) else {
        connection.close(1u32.into(), b"not a node of this cluster");
        return;
    };
    inner.accepted(&peer, &connection);
    loop {
        let (send, mut recv) = match connection.accept_bi().await {
            Ok(stream) => stream,
            Err(why) => return inner.ended(&why),
        };
        let (peer, sender) = (peer.clone(), sender.clone());
        tokio::spawn(async move {
            let Some(channel) = recv.read_u8().await.ok().and_then(Channel::from_byte) else { return };
            let _ = sender.send(Incoming { peer, channel, stream: tokio::io::join(recv, send) }).await;
        });
    }
}

/// Gives a socket buffers for a burst, beyond the system's limit where this process may.
fn make_room(socket: &std::net::UdpSocket) {
    let room = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).or_else(|_| setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER));
    if let Err(why) = room.and_then(|()| setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER)) {
        debug!(%why, "the socket keeps its small buffers");
    }
}

fn peer_name(connection: &quinn::Connection) -> Option<String> {
    let chain = connection.peer_identity()?.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
    Subject::of_certificate(chain.first()?)?.node_name().map(String::from)
}

/// What is spoken among nodes of one epoch.
fn protocol_of(epoch: u64) -> Vec<u8> {
    if epoch == 0 { ALPN.to_vec() } else { [ALPN, b"+", epoch.to_string().as_bytes()].concat() }
}

/// What a node of this epoch offers: all older ones too, so that it can tell such a node why it is not let in.
fn protocols(epoch: u64) -> Vec<Vec<u8>> {
    (0..=epoch).rev().map(protocol_of).collect()
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(IDLE_TIMEOUT.try_into().ok());
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(STREAMS_MAX.into());
    // A LAN or a region: Raft's messages must not wait for a guess of 333 ms.
    transport.initial_rtt(Duration::from_millis(20));
    transport
}

fn server_config(identity: &Identity, epoch: u64, transport: Arc<quinn::TransportConfig>) -> Result<quinn::ServerConfig, Error> {
    let certificate = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(identity.roots()?), provider())
        .build()
        .map_err(|e| certificate(&e))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain()?, identity.key()?)?;
    tls.alpn_protocols = protocols(epoch);
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| certificate(&e))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport);
    Ok(config)
}

fn client_config(identity: &Identity, epoch: u64, transport: Arc<quinn::TransportConfig>) -> Result<quinn::ClientConfig, Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(identity.roots()?)
        .with_client_auth_cert(identity.chain()?, identity.key()?)?;
    tls.alpn_protocols = protocols(epoch);
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| Error::Certificate(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    Ok(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn endpoint(authority: &Authority, name: &str) -> (Endpoint, mpsc::Receiver<Incoming>, String) {
        let names = [name.to_string(), node_dns_name(name)];
        let identity = authority.issue(&Subject::node(name), &names, Duration::from_secs(60)).expect("an identity");
        let bind = "127.0.0.1:0".parse().expect("an address");
        let (endpoint, incoming) = Endpoint::start(Options { bind, identity, epoch: 0 }).expect("an endpoint");
        let address = endpoint.inner.endpoint.local_addr().expect("an address").to_string();
        (endpoint, incoming, address)
    }

    /// The client trusts the server, which does not trust it: nothing but the connection's end says so.
    #[tokio::test]
    async fn who_is_refused_leaves_the_peer_alone_for_a_while() {
        let (own, other) = (Authority::create("a").expect("a CA"), Authority::create("b").expect("a CA"));
        let (_server, _incoming, address) = endpoint(&own, "server");
        let (client, _none, _) = endpoint(&other, "client");
        let stranger = other.issue(&Subject::node("client"), &[], Duration::from_secs(60)).expect("an identity");
        let strange = Identity { authority_pem: own.certificate_pem.clone(), ..stranger };
        client.set_identity(&strange).expect("an identity");
        let mut stream = client.open("server", &address, Channel::Call).await.expect("it seems to be open");
        stream.read_u8().await.expect_err("nobody answers");
        let left_alone = async {
            let said = async || client.open("server", &address, Channel::Call).await.err().map(|why| why.to_string());
            while !said().await.is_some_and(|why| why.contains("it has just refused this node's certificate")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(REFUSED_PAUSE, left_alone).await.expect("it is not asked again");
        let known = own.issue(&Subject::node("client"), &[], Duration::from_secs(60)).expect("an identity");
        client.set_identity(&known).expect("an identity");
        client.open("server", &address, Channel::Call).await.expect("another certificate is shown at once");
    }
}
