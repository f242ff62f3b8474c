//! etcd beside Skein: three members on this machine, asked by clients of the same number for the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::client::client_config;
use crate::daemons::{cpu_ticks, metric};
use crate::load::{Arrivals, Load, Used, gather};
use crate::measure::{CONNECTIONS_MAX, VALUE_BYTES};

const MEMBERS: u16 = 3;
/// In etcd's folder.
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How clients and members talk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire {
    /// With certificates on both sides, as Kubernetes' installers set it up, and as Skein always talks.
    Tls,
    Plain,
}

/// Running members, which end with this.
pub(crate) struct Etcd {
    pub(crate) wire: Wire,
    members: Vec<Child>,
    directory: PathBuf,
    /// What a client connects with, where that is by TLS.
    tls: Option<Arc<rustls::ClientConfig>>,
}

// What is asked of etcd (`etcdserverpb`, rpc.proto), as far as it is needed here.

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Nothing>,
}

/// Whatever is in it.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// The program that `ETCD` names, or the one on PATH.
pub(crate) fn program() -> Option<PathBuf> {
    std::env::var_os("ETCD").map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|file| file.is_file())
    })
}

// === impl Wire ===

impl Wire {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tls => "etcd by TLS",
            Self::Plain => "etcd in plain text",
        }
    }

    /// The ports of a member for clients, for members, and for metrics.
    fn ports(self, member: u16) -> [u16; 3] {
        let first = if self == Self::Tls { 12_379 } else { 13_379 } + 10_000 * member;
        [first, first + 1, first + 2]
    }

    fn url(self, port: u16) -> String {
        format!("{}://127.0.0.1:{port}", if self == Self::Tls { "https" } else { "http" })
    }
}

// === impl Etcd ===

impl Etcd {
    pub(crate) async fn start(program: &Path, wire: Wire) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("skein-bench-etcd-{wire:?}-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let mut etcd = Self { wire, members: Vec::new(), directory, tls: None };
        if wire == Wire::Tls {
            etcd.tls = Some(certify(&etcd.directory)?);
        }
        let cluster: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", wire.url(wire.ports(member)[1]))).collect();
        for member in 0..MEMBERS {
            let [client, peer, metrics] = wire.ports(member);
            let (client, peer) = (wire.url(client), wire.url(peer));
            let mut command = Command::new(program);
            command
                .args(["--name", &format!("m{member}"), "--data-dir"])
                .arg(etcd.directory.join(format!("m{member}")))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{metrics}")])
                .args(["--initial-cluster", &cluster.join(","), "--log-level", "error", "--quota-backend-bytes", "8589934592"]);
            if wire == Wire::Tls {
                let (certificate, key) = (etcd.directory.join(CERTIFICATE), etcd.directory.join(KEY));
                for of in ["", "peer-"] {
                    command.arg(format!("--{of}client-cert-auth")).arg(format!("--{of}cert-file")).arg(&certificate);
                    command.arg(format!("--{of}key-file")).arg(&key).arg(format!("--{of}trusted-ca-file")).arg(&certificate);
                }
            }
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            etcd.members.push(child.with_context(|| format!("cannot run {}", program.display()))?);
        }
        let begin = Instant::now();
        while put(&mut Grpc::new(etcd.channel(0)), "ready", &[]).await.is_err() {
            ensure!(begin.elapsed() < START_PATIENCE, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(etcd)
    }

    fn channel(&self, index: usize) -> Channel {
        let member = u16::try_from(index % usize::from(MEMBERS)).unwrap_or_default();
        let [port, ..] = self.wire.ports(member);
        // The scheme is not TLS's even where the stream is, for which tonic would want to do that itself.
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("it is a URL").tcp_nodelay(true);
        let Some(tls) = self.tls.clone() else { return endpoint.connect_lazy() };
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls));
            async move {
                let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
                std::io::Result::Ok(TokioIo::new(connector.connect(name, stream).await?))
            }
        }))
    }

    fn channels(&self, clients: usize) -> Vec<Channel> {
        (0..clients.min(CONNECTIONS_MAX)).map(|index| self.channel(index)).collect()
    }

    fn used(&self) -> Used {
        let ticks = self.members.iter().map(|member| cpu_ticks(member.id().into())).sum();
        let synced = |member| metric(&metrics(self.wire.ports(member)[2]), "etcd_disk_wal_fsync_duration_seconds_count");
        let syncs = (0..MEMBERS).map(synced).sum();
        Used { ticks, syncs, ..Used::default() }
    }

    pub(crate) async fn puts(&self, clients: usize, duration: Duration) -> Result<Load> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let value = Arc::new(vec![b'x'; VALUE_BYTES]);
        let channels = self.channels(clients);
        let before = self.used();
        let once = move |mut grpc: Grpc<Channel>| {
            let value = Arc::clone(&value);
            async move {
                let key = format!("bench-{}", SEQUENCE.fetch_add(1, Ordering::Relaxed));
                put(&mut grpc, &key, &value).await?;
                Ok(grpc)
            }
        };
        let load = gather(clients, duration, |index| Grpc::new(channels[index % channels.len()].clone()), once).await?;
        Ok(load.with(before, self.used()))
    }

    pub(crate) async fn reads(&self, clients: usize, duration: Duration) -> Result<Load> {
        let channels = self.channels(clients);
        let before = self.used();
        put(&mut Grpc::new(channels[0].clone()), "read", &vec![b'x'; VALUE_BYTES]).await?;
        let once = |mut grpc: Grpc<Channel>| async move {
            let request = RangeRequest { key: b"read".to_vec() };
            let found: RangeResponse = unary(&mut grpc, request, "/etcdserverpb.KV/Range").await?;
            ensure!(found.count == 1, "the key is not there");
            Ok(grpc)
        };
        let load = gather(clients, duration, |index| Grpc::new(channels[index % channels.len()].clone()), once).await?;
        Ok(load.with(before, self.used()))
    }

    /// So many writes, each seen by so many watchers.
    pub(crate) async fn fan_out(&self, watchers: usize, writes: usize) -> Result<Load> {
        let channels = self.channels(CONNECTIONS_MAX);
        let arrivals = Arrivals::new(watchers, writes);
        let mut ready = Vec::new();
        for index in 0..watchers {
            let mut grpc = Grpc::new(channels[index % channels.len()].clone());
            let mut watcher = arrivals.watcher();
            let (begun, begins) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let create = WatchCreateRequest { key: b"watched-".to_vec(), range_end: b"watched.".to_vec() };
                // A stream that ends would end the watch.
                let requests =
                    futures::StreamExt::chain(futures::stream::iter([WatchRequest { create: Some(create) }]), futures::stream::pending());
                grpc.ready().await?;
                let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
                let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
                let mut answers = grpc.streaming(tonic::Request::new(requests), path, codec).await?.into_inner();
                let mut begun = Some(begun);
                while let Some(answer) = answers.message().await? {
                    if answer.created {
                        begun.take().map(|begun| begun.send(()));
                    }
                    watcher.saw(answer.events.len());
                }
                anyhow::Ok(())
            });
            ready.push(begins);
        }
        for begins in ready {
            begins.await.context("a watch has not begun")?;
        }
        let mut grpc = Grpc::new(channels[0].clone());
        let before = self.used();
        for write in 0..writes {
            arrivals.written();
            put(&mut grpc, &format!("watched-{write}"), &[b'x'; VALUE_BYTES]).await?;
        }
        arrivals.all().await.map(|load| load.with(before, self.used()))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What a member tells of itself; nothing where it does not answer.
fn metrics(port: u16) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// A certificate that is its own authority, for every member and every client; what a client connects with.
fn certify(directory: &Path) -> Result<Arc<rustls::ClientConfig>> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_string()])?.self_signed(&key)?;
    std::fs::write(directory.join(CERTIFICATE), certificate.pem())?;
    std::fs::write(directory.join(KEY), key.serialize_pem())?;
    let der = CertificateDer::from(certificate.der().to_vec());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.clone())?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut tls = client_config(roots, vec![der], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(tls))
}

async fn put(grpc: &mut Grpc<Channel>, key: &str, value: &[u8]) -> Result<()> {
    let request = PutRequest { key: key.into(), value: value.into() };
    let _: Nothing = unary(grpc, request, "/etcdserverpb.KV/Put").await?;
    Ok(())
}

async fn unary<Q, A>(grpc: &mut Grpc<Channel>, request: Q, path: &'static str) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    grpc.ready().await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    Ok(grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}
