//! Processes in containers, for clients that speak websocket or SPDY (`exec`, `attach`).
//!
//! Over websocket the first byte of a message is its channel. Over SPDY each of input, output, errors and the terminal's
//! size has a stream of its own, which the client opens and names by `streamtype`.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, future, stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Wanted;
use super::process::{Input, Output, run};
use super::spdy::{Frame, Out, Reader, write};
use super::websocket::{ERROR, Protocol, STDERR, STDOUT, Size, end, message, parse};
use crate::pods::Pods;

/// Frames that wait for a slow reader before the connection as a whole waits.
const QUEUE: usize = 64;

/// A client opens its streams within this time (`DefaultStreamCreationTimeout`).
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// What a terminal's size may take before it is read; a client sends some twenty bytes.
const RESIZE_BYTES_MAX: usize = 4096;

/// The protocols above SPDY, the best first, with how they tell the end; from the third on terminals have a size.
const VERSIONS: [(&str, Protocol, bool); 4] = [
    ("v4.channel.k8s.io", Protocol::V4, true),
    ("v3.channel.k8s.io", Protocol::V1, true),
    ("v2.channel.k8s.io", Protocol::V1, false),
    ("channel.k8s.io", Protocol::V1, false),
];

/// A protocol above SPDY.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Version {
    pub(super) name: &'static str,
    end: Protocol,
    has_resize: bool,
}

// === impl Version ===

impl Version {
    /// The best of what a client offers in `X-Stream-Protocol-Version`; the first, where it offers nothing.
    pub(super) fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let offered: Vec<&str> = offered.collect();
        let is_known = |name: &str| if offered.is_empty() { name == "channel.k8s.io" } else { offered.contains(&name) };
        let (name, end, has_resize) = VERSIONS.into_iter().find(|(name, ..)| is_known(name))?;
        Some(Self { name, end, has_resize })
    }
}

pub(super) async fn over_websocket(
    pods: &Pods,
    wanted: Wanted,
    mut socket: WebSocketStream<TokioIo<Upgraded>>,
    protocol: Protocol,
) -> Result<(), Error> {
    let (sink, source) = (&mut socket).split();
    let input = source.take_while(|asked| future::ready(asked.as_ref().is_ok_and(|asked| !asked.is_close()))).map(|asked| match asked {
        Ok(Message::Binary(bytes)) => parse(protocol, &bytes),
        _ => Input::Nothing,
    });
    let output = sink.with(|written| {
        let message = match written {
            Output::Stdout(bytes) => message(STDOUT, &bytes),
            Output::Stderr(bytes) => message(STDERR, &bytes),
        };
        future::ready(Ok::<_, Error>(Message::Binary(message)))
    });
    let Some(ended) = run(pods, wanted, input, output).await else { return Err(Error::ConnectionClosed) };
    if let Some(told) = end(protocol, &ended) {
        socket.send(Message::Binary(message(ERROR, told.as_bytes()))).await?;
    }
    // Without a code kubectl takes the close for a failure.
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await
}

/// The streams that a client has opened, by what they are for.
#[derive(Default)]
struct Opened(BTreeMap<String, u32>);

/// Which streams a request needs: what goes wrong always has one.
fn needed(wanted: &Wanted, version: Version) -> Vec<&'static str> {
    let (stdin, stdout, stderr, tty) = match wanted {
        Wanted::Exec(asked) => (asked.stdin, asked.stdout, asked.stderr, asked.tty),
        Wanted::Attach(asked) => (asked.stdin, asked.stdout, asked.stderr, asked.tty),
        Wanted::PortForward(_) => (false, false, false, false),
    };
    let wishes = [("stdin", stdin), ("stdout", stdout), ("stderr", stderr && !tty), ("resize", tty && version.has_resize)];
    ["error"].into_iter().chain(wishes.into_iter().filter(|(_, wish)| *wish).map(|(name, _)| name)).collect()
}

/// Serves a connection that speaks SPDY.
pub(super) async fn over_spdy(
    pods: &Pods,
    wanted: Wanted,
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
    version: Version,
) -> io::Result<()> {
    let (mut from, to) = tokio::io::split(connection);
    let (out, queue) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write(to, queue));
    let mut reader = Reader::new();
    let mut opened = Opened::default();
    let needed = needed(&wanted, version);
    let open = async {
        while !needed.iter().all(|name| opened.0.contains_key(*name)) {
            let frame = reader.next(&mut from).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Frame::Open { id, headers, .. } = frame {
                opened.0.insert(headers.get("streamtype").cloned().unwrap_or_default(), id);
                out.send(Out::Reply(id)).await.map_err(io::Error::other)?;
            }
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(STREAMS_TIMEOUT, open).await??;
    let id = |name: &str| opened.0.get(name).copied().unwrap_or(0);
    let (stdin, resize, error, pings) = (id("stdin"), id("resize"), id("error"), out.clone());
    let input = stream::unfold((reader, from, Vec::new()), |(mut reader, mut from, mut sizes)| {
        let pings = pings.clone();
        async move {
            let asked = match reader.next(&mut from).await.ok().flatten()? {
                Frame::Data { id, bytes, is_last } if id == stdin => stdin_of(bytes, is_last),
                Frame::Data { id, bytes, .. } if id == resize => vec![size_of(&mut sizes, &bytes)],
                Frame::Ping { id } => {
                    pings.send(Out::Ping(id)).await.ok()?;
                    Vec::new()
                }
                Frame::Reset { id } if id == stdin => vec![Input::CloseStdin],
                Frame::Open { .. } | Frame::Data { .. } | Frame::Reset { .. } | Frame::GoAway | Frame::Other => Vec::new(),
            };
            Some((stream::iter(asked), (reader, from, sizes)))
        }
    });
    let input = input.flatten();
    let output = futures::sink::unfold((), |(), written| {
        let (id, bytes) = match written {
            Output::Stdout(bytes) => (id("stdout"), bytes),
            Output::Stderr(bytes) => (id("stderr"), bytes),
        };
        let out = &out;
        async move { if id == 0 { Ok(()) } else { out.send(Out::Data(id, bytes, false)).await } }
    });
    let ended = run(pods, wanted, std::pin::pin!(input), std::pin::pin!(output)).await;
    if let Some(ended) = ended {
        let told = end(version.end, &ended).unwrap_or_default();
        let last = [("stdout", Bytes::new()), ("stderr", Bytes::new())].map(|(name, bytes)| (id(name), bytes));
        for (id, bytes) in last.into_iter().chain([(error, told.into())]).filter(|(id, _)| *id != 0) {
            let _ = out.send(Out::Data(id, bytes, true)).await;
        }
    }
    drop((out, pings));
    writer.await.map_err(io::Error::other)?
}

/// A piece of input, its end, or both.
fn stdin_of(bytes: Bytes, is_last: bool) -> Vec<Input> {
    let piece = (!bytes.is_empty()).then_some(Input::Stdin(bytes));
    piece.into_iter().chain(is_last.then_some(Input::CloseStdin)).collect()
}

/// Sizes come as JSON, one after the other, in pieces of any length; the last one counts.
fn size_of(pending: &mut Vec<u8>, bytes: &[u8]) -> Input {
    pending.extend_from_slice(bytes);
    let mut sizes = serde_json::Deserializer::from_slice(pending).into_iter::<Size>();
    let mut last = Input::Nothing;
    while let Some(Ok(size)) = sizes.next() {
        last = size.into();
    }
    let read = sizes.byte_offset();
    pending.drain(..read);
    if pending.len() > RESIZE_BYTES_MAX {
        pending.clear();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_version_is_spoken() {
        let check = |offered: &[&str], expected: Option<&str>| {
            assert_eq!(Version::choose(offered.iter().copied()).map(|v| v.name), expected);
        };
        check(&["channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"], Some("v4.channel.k8s.io"));
        check(&["v2.channel.k8s.io"], Some("v2.channel.k8s.io"));
        check(&[], Some("channel.k8s.io"));
        check(&["v9.channel.k8s.io"], None);
    }

    #[test]
    fn sizes_come_in_pieces() {
        let mut pending = Vec::new();
        assert_eq!(size_of(&mut pending, b"{\"Width\":80,"), Input::Nothing);
        assert_eq!(size_of(&mut pending, b"\"Height\":24}\n{\"Width\":1"), Input::Resize { width: 80, height: 24 });
        assert_eq!(size_of(&mut pending, b"00,\"Height\":30}\n"), Input::Resize { width: 100, height: 30 });
        assert_eq!(size_of(&mut pending, &[b'['; 5000]), Input::Nothing);
        assert!(pending.is_empty());
    }

    #[test]
    fn an_end_of_input_with_data_is_both() {
        let piece = || Bytes::from_static(b"x");
        assert_eq!(stdin_of(Bytes::new(), true), [Input::CloseStdin]);
        assert_eq!(stdin_of(piece(), false), [Input::Stdin(piece())]);
        assert_eq!(stdin_of(piece(), true), [Input::Stdin(piece()), Input::CloseStdin]);
        assert_eq!(stdin_of(Bytes::new(), false), []);
    }
}
