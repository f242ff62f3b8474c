//! Ports of a Pod on a client's machine: connections inside the Pod's network, carried over SPDY or websocket.
//!
//! Over SPDY each connection is a pair of streams, for data and for what went wrong (`portforward.k8s.io`). Over
//! websocket the ports are named beforehand, and each has two channels of messages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::spdy::{DATA_BYTES, Frame, Out, Reader, write};

/// The protocol above SPDY, in `X-Stream-Protocol-Version`.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";

/// Frames that wait for a slow reader before the connection as a whole waits.
const QUEUE: usize = 64;

/// A Pod's network, by its namespace.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) namespace: String,
    /// For errors.
    pub(super) pod: String,
}

// === impl Network ===

impl Network {
    /// Connects to a port of the Pod as from inside of it.
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let namespace = self.namespace.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own enters the namespace and never leaves it.
        std::thread::Builder::new().name("port-forward".into()).spawn(move || {
            let connect = || {
                setns(File::open(&namespace)?, CloneFlags::CLONE_NEWNET)?;
                let addresses = [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1u16], port))];
                let stream = std::net::TcpStream::connect(&addresses[..])?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            };
            drop(sender.send(connect()));
        })?;
        let stream: io::Result<std::net::TcpStream> = receiver.await.map_err(io::Error::other)?;
        let stream = TcpStream::from_std(stream?)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn failure(&self, port: u16, why: &io::Error) -> String {
        format!("error forwarding port {port} to pod {}: failed to connect to localhost:{port} inside the pod: {why}", self.pod)
    }
}

/// Serves a connection that speaks SPDY until the client goes.
pub(super) async fn over_spdy(network: Arc<Network>, connection: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<()> {
    let (mut from, to) = tokio::io::split(connection);
    let (out, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write(to, queue));
    let mut reader = Reader::new();
    // By request, the stream for what goes wrong; by stream, where its data goes.
    let mut errors: BTreeMap<String, u32> = BTreeMap::new();
    let mut connections: BTreeMap<u32, mpsc::Sender<Bytes>> = BTreeMap::new();
    while let Some(frame) = reader.next(&mut from).await? {
        let sent = match frame {
            Frame::Open { id, headers, .. } => {
                let request = headers.get("requestid").cloned().unwrap_or_else(|| id.to_string());
                let port = headers.get("port").and_then(|port| port.parse().ok()).unwrap_or(0);
                match headers.get("streamtype").map(String::as_str) {
                    Some("error") => drop(errors.insert(request, id)),
                    _ => {
                        let (sender, receiver) = mpsc::channel(QUEUE);
                        connections.insert(id, sender);
                        let ids = (id, errors.remove(&request));
                        tokio::spawn(forward(Arc::clone(&network), port, ids, receiver, out.clone()));
                    }
                }
                out.send(Out::Reply(id)).await
            }
            Frame::Data { id, bytes, is_last } => {
                if let Some(to) = connections.get(&id)
                    && !bytes.is_empty()
                {
                    let _ = to.send(bytes).await;
                }
                if is_last {
                    connections.remove(&id);
                }
                Ok(())
            }
            Frame::Reset { id } => {
                connections.remove(&id);
                Ok(())
            }
            Frame::Ping { id } => out.send(Out::Ping(id)).await,
            Frame::GoAway | Frame::Other => Ok(()),
        };
        if sent.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// One connection into the Pod, until either side has nothing more to say.
async fn forward(network: Arc<Network>, port: u16, ids: (u32, Option<u32>), mut data: mpsc::Receiver<Bytes>, out: mpsc::Sender<Out>) {
    let (id, error) = ids;
    match network.connect(port).await {
        Ok(stream) => {
            let (mut from, mut to) = stream.into_split();
            let upwards = async move {
                while let Some(bytes) = data.recv().await {
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                let _ = to.shutdown().await;
            };
            let upwards = tokio::spawn(upwards);
            let mut buffer = vec![0; DATA_BYTES];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                if out.send(Out::Data(id, Bytes::copy_from_slice(&buffer[..count]), false)).await.is_err() {
                    break;
                }
            }
            upwards.abort();
        }
        Err(why) => {
            if let Some(error) = error {
                let _ = out.send(Out::Data(error, network.failure(port, &why).into(), false)).await;
            }
        }
    }
    let _ = out.send(Out::Data(id, Bytes::new(), true)).await;
    if let Some(error) = error {
        let _ = out.send(Out::Data(error, Bytes::new(), true)).await;
    }
}

/// Serves a websocket for ports that are known beforehand: of the port number `i`, channel `2i` is its data and `2i + 1`
/// what goes wrong; the first message of each is the port.
pub(super) async fn over_websocket<T>(network: Arc<Network>, ports: &[u16], socket: WebSocketStream<T>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, mut source) = socket.split();
    let (out, mut queue) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut connections = Vec::new();
    for (index, port) in ports.iter().copied().enumerate().take(64) {
        let channel = u8::try_from(index * 2).unwrap_or(0);
        for channel in [channel, channel + 1] {
            let _ = out.send((channel, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
        }
        let (sender, mut data) = mpsc::channel::<Bytes>(QUEUE);
        connections.push(sender);
        let (network, out) = (Arc::clone(&network), out.clone());
        tokio::spawn(async move {
            let stream = match network.connect(port).await {
                Ok(stream) => stream,
                Err(why) => return drop(out.send((channel + 1, network.failure(port, &why).into())).await),
            };
            let (mut from, mut to) = stream.into_split();
            let mut buffer = vec![0; DATA_BYTES];
            loop {
                tokio::select! {
                    bytes = data.recv() => match bytes {
                        Some(bytes) if to.write_all(&bytes).await.is_ok() => {}
                        _ => return,
                    },
                    read = from.read(&mut buffer) => match read {
                        Ok(count @ 1..) => if out.send((channel, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() { return },
                        _ => return,
                    },
                }
            }
        });
    }
    drop(out);
    loop {
        tokio::select! {
            sent = queue.recv() => {
                let Some((channel, bytes)) = sent else { break };
                sink.send(Message::Binary(super::websocket::message(channel, &bytes))).await.map_err(io::Error::other)?;
            }
            asked = source.next() => match asked {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some((channel, _)) = bytes.split_first() else { continue };
                    if let Some(to) = connections.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                        let _ = to.send(bytes.slice(1..)).await;
                    }
                }
                Some(Ok(message)) if !message.is_close() => {}
                _ => break,
            },
        }
    }
    sink.close().await.map_err(io::Error::other)
}
