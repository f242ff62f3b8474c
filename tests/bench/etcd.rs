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
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::measure::{Arrivals, CONNECTIONS_MAX, Load, Used, VALUE_BYTES, cpu_ticks, gather, metric};

const CLIENT_PORTS: [u16; 3] = [12379, 22379, 32379];
const PEER_PORTS: [u16; 3] = [12380, 22380, 32380];
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Running members, which end with this.
pub(crate) struct Etcd {
    members: Vec<Child>,
    directory: PathBuf,
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

// === impl Etcd ===

impl Etcd {
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("skein-bench-etcd-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = PEER_PORTS.iter().enumerate().map(|(member, port)| format!("m{member}={}", url(*port))).collect();
        let mut etcd = Self { members: Vec::new(), directory };
        for member in 0..CLIENT_PORTS.len() {
            let (client, peer) = (url(CLIENT_PORTS[member]), url(PEER_PORTS[member]));
            let child = Command::new(program)
                .args(["--name", &format!("m{member}"), "--data-dir"])
                .arg(etcd.directory.join(format!("m{member}")))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster.join(","), "--log-level", "error", "--quota-backend-bytes", "8589934592"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))?;
            etcd.members.push(child);
        }
        let begin = Instant::now();
        while put(&mut Grpc::new(channel(0)), "ready", &[]).await.is_err() {
            ensure!(begin.elapsed() < START_PATIENCE, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(etcd)
    }

    fn used(&self) -> Used {
        let ticks = self.members.iter().map(|member| cpu_ticks(member.id().into())).sum();
        let syncs = CLIENT_PORTS.iter().map(|port| metric(&metrics(*port), "etcd_disk_wal_fsync_duration_seconds_count")).sum();
        Used { ticks, syncs, ..Used::default() }
    }

    pub(crate) async fn puts(&self, clients: usize, duration: Duration) -> Result<Load> {
        static SEQUENCE: AtomicU64 = AtomicU64::new(0);
        let value = Arc::new(vec![b'x'; VALUE_BYTES]);
        let channels = channels(clients);
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
        let channels = channels(clients);
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
        let channels = channels(CONNECTIONS_MAX);
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

fn channel(index: usize) -> Channel {
    let port = CLIENT_PORTS[index % CLIENT_PORTS.len()];
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("it is a URL");
    endpoint.tcp_nodelay(true).connect_lazy()
}

fn channels(clients: usize) -> Vec<Channel> {
    (0..clients.min(CONNECTIONS_MAX)).map(channel).collect()
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
