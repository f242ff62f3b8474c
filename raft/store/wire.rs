//! Frames on a stream, and openraft's types in the messages of `proto/peer`.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::type_config::alias::LogIdOf;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skein_log::{Types, decode_entry, encode_entry, log_id};
use skein_peer::{Append, FRAME_BYTES_MAX, LogPosition};
use skein_state::{Restore, State};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Duplex;

/// A stream of length-delimited frames.
pub(crate) struct Frames(Framed<Box<dyn Duplex>, LengthDelimitedCodec>);

impl Frames {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_framed(stream))
    }

    /// Both directions, each for somebody else.
    pub(crate) fn split(self) -> (impl Sink<Bytes, Error = io::Error> + Unpin, impl Stream<Item = io::Result<BytesMut>>) {
        self.0.split()
    }

    pub(crate) async fn send(&mut self, message: &impl Message) -> io::Result<()> {
        self.send_bytes(message.encode_to_vec().into()).await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.send(bytes).await
    }

    /// The next frame; `None` when the peer has ended the stream.
    pub(crate) async fn next_bytes(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.next().await.transpose()?.map(BytesMut::freeze))
    }

    pub(crate) async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(bytes) = self.next_bytes().await? else { return Ok(None) };
        M::decode(bytes).map(Some).map_err(io::Error::other)
    }

    /// The answer that must come.
    pub(crate) async fn expect<M: Message + Default>(&mut self) -> io::Result<M> {
        self.next().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// A chunk of a state may not take longer; the whole of it may take as long as it needs.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a state, ended by an empty frame.
pub(crate) async fn send_state(frames: &mut Frames, state: &State) -> io::Result<()> {
    for chunk in state.chunks() {
        let sent = timeout(CHUNK_TIMEOUT, frames.send_bytes(chunk.into())).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    frames.send_bytes(Bytes::new()).await
}

pub(crate) async fn receive_state(frames: &mut Frames) -> io::Result<State> {
    let mut restore = Restore::default();
    loop {
        let chunk = frames.next_bytes().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if chunk.is_empty() {
            return restore.finish().map_err(io::Error::other);
        }
        restore.push(&chunk).map_err(io::Error::other)?;
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("openraft's messages are plain data").into()
}

pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

pub(crate) fn encode_append(request: &AppendEntriesRequest<Types>, pace: u32) -> Append {
    Append {
        vote: to_json(&request.vote),
        previous: request.prev_log_id.map(position),
        entries: request.entries.iter().map(|entry| encode_entry(entry).into()).collect(),
        commit: request.leader_commit.map(position),
        pace,
    }
}

/// The request, and the pace of who sent it.
pub(crate) fn decode_append(frame: Bytes) -> io::Result<(AppendEntriesRequest<Types>, u32)> {
    append_of(Append::decode(frame).map_err(io::Error::other)?)
}

pub(crate) fn append_of(append: Append) -> io::Result<(AppendEntriesRequest<Types>, u32)> {
    let entries = append.entries.into_iter().map(decode_entry).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let request = AppendEntriesRequest {
        vote: from_json(&append.vote)?,
        prev_log_id: append.previous.map(|p| log_id(p.term, p.index)),
        entries,
        leader_commit: append.commit.map(|p| log_id(p.term, p.index)),
    };
    Ok((request, append.pace))
}

/// The answer to an append: JSON, as it is small and openraft owns its shape.
pub(crate) fn encode_appended(response: &AppendEntriesResponse<Types>) -> Bytes {
    to_json(response)
}

fn position(id: LogIdOf<Types>) -> LogPosition {
    LogPosition { term: *id.leader_id, index: id.index }
}
