//! Answers what peers ask of this node's store.

use std::future::ready;
use std::io;
use std::pin::pin;

use futures::{SinkExt, StreamExt};
use openraft::raft::{AppendEntriesResponse, SnapshotResponse, VoteRequest};
use openraft::type_config::alias::SnapshotOf;
use openraft::vote::RaftLeaderId;
use skein_log::{Member, NodeId, Types};
use skein_peer::{AddMember, Answer, Call, Channel, Proposed, Request, Response};

use crate::network::SnapshotHeader;
use crate::wire::{Frames, decode_append, encode_appended, from_json, receive_state, to_json};
use crate::{Duplex, Handle};

impl Handle {
    /// Serves one stream that a peer opened, until it ends. Requests that are not the store's are answered by `other`.
    pub async fn serve<F>(&self, channel: Channel, stream: Box<dyn Duplex>, other: impl FnOnce(Request) -> F) -> io::Result<()>
    where
        F: Future<Output = Response>,
    {
        let mut frames = Frames::new(stream);
        match channel {
            Channel::Append => self.serve_appends(frames).await,
            Channel::Snapshot => self.serve_snapshot(&mut frames).await,
            Channel::Call => {
                let call: Call = frames.expect().await?;
                let response = match call.request {
                    Some(request) => self.answer(request, call.pace, (call.node, call.writes), other).await?,
                    None => Response::Failed("empty request".into()),
                };
                frames.send(&Answer { response: Some(response) }).await
            }
            Channel::State => self.serve_state(&mut frames).await,
            Channel::Follow => self.serve_follower(&mut frames).await,
            Channel::Kubelet | Channel::Report => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Several appends may be on their way to the disk at a time; the answers go out in order.
    async fn serve_appends(&self, frames: Frames) -> io::Result<()> {
        let (mut answers, requests) = frames.split();
        let patience = self.patience().clone();
        let requests = requests.scan((), move |(), frame| {
            let request = frame.and_then(|bytes| decode_append(bytes.freeze())).ok();
            ready(request.map(|(request, pace)| {
                patience.told(*request.vote.leader_id().node_id(), pace);
                request
            }))
        });
        let mut results = pin!(self.raft().stream_append(requests));
        while let Some(result) = results.next().await {
            let answer = AppendEntriesResponse::from(result.map_err(io::Error::other)?);
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                self.heard_of_leader();
            }
            answers.send(encode_appended(&answer)).await?;
        }
        Ok(())
    }

    async fn serve_snapshot(&self, frames: &mut Frames) -> io::Result<()> {
        let header = frames.next_bytes().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let _receiving = self.receive();
        let response = self.take_snapshot(&header, frames).await?;
        frames.send_bytes(to_json(&response)).await
    }

    /// Puts the state that follows a header in the place of this node's.
    pub(crate) async fn take_snapshot(&self, header: &[u8], frames: &mut Frames) -> io::Result<SnapshotResponse<Types>> {
        let SnapshotHeader { vote, meta } = from_json(header)?;
        let snapshot = SnapshotOf::<Types, _> { meta, snapshot: receive_state(frames).await? };
        self.raft().install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)
    }

    /// A vote that a candidate asks for, whose clock goes at this pace.
    fn candidacy(&self, json: &[u8], pace: u32) -> io::Result<VoteRequest<Types>> {
        let request: VoteRequest<Types> = from_json(json)?;
        self.patience().told(*request.vote.leader_id().node_id(), pace);
        Ok(request)
    }

    async fn answer<F>(&self, request: Request, pace: u32, from: (NodeId, u64), other: impl FnOnce(Request) -> F) -> io::Result<Response>
    where
        F: Future<Output = Response>,
    {
        let raft = self.raft();
        Ok(match request {
            Request::Vote(json) => Response::Raft(to_json(&raft.vote(self.candidacy(&json, pace)?).await.map_err(io::Error::other)?)),
            Request::PreVote(json) => {
                Response::Raft(to_json(&raft.pre_vote(self.candidacy(&json, pace)?).await.map_err(io::Error::other)?))
            }
            Request::TransferLeader(json) => {
                let _ = raft.handle_transfer_leader(from_json(&json)?).await.map_err(io::Error::other)?;
                Response::Raft(to_json(&()))
            }
            Request::Propose(proposal) => match self.propose_here(proposal, from).await {
                Ok(proposed) => Response::Proposed(proposed),
                Err(None) => Response::NotLeader(true),
                Err(Some(error)) => Response::Failed(error.to_string()),
            },
            Request::ReadIndex(_) => match self.read_index_here().await {
                Ok(index) => Response::ReadIndex(index),
                Err(_) => Response::NotLeader(true),
            },
            Request::Digest(index) => match self.digest_at(index).await {
                Some(digest) => Response::Digest(digest),
                None => Response::Failed("this entry's state is not known here".into()),
            },
            Request::AddMember(add) | Request::AddWitness(add) => {
                let AddMember { id, name, address, witness } = add;
                match raft.add_learner(id, Member { name, address, witness }, false).await {
                    Ok(done) => Response::Proposed(Proposed { index: done.log_id.index, reply: bytes::Bytes::new() }),
                    Err(_) => Response::NotLeader(true),
                }
            }
            Request::Follow(_) => match self.asked_to_follow().await {
                true => Response::Raft(to_json(&())),
                false => Response::Failed("nobody is followed yet".into()),
            },
            Request::Replicated(_) => match self.replicated() {
                Some(index) => Response::ReadIndex(index),
                None => Response::NotLeader(true),
            },
            request @ (Request::InstallKeys(_)
            | Request::Authorities(_)
            | Request::Join(_)
            | Request::Renew(_)
            | Request::SealingKey(_)
            | Request::SignToken(_)
            | Request::Authority(_)) => other(request).await,
        })
    }
}
