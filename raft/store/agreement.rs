//! Whether this node's state is that of the others, and what is done where it is not.
//!
//! Every node asks the voters now and then for the digest of their state after an entry that it has applied. Where a
//! majority agrees on another one, this node is wrong, whatever made it so: it answers nobody, takes the state of one of
//! them, applies to that what has been applied here since, and goes on. A leader lets another lead first.

use std::io;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use skein_log::Member;
use skein_peer::{Channel, Request, Response};
use tokio::time::{sleep, timeout};

use crate::wire::{Frames, from_json, receive_state, send_state, to_json};
use crate::{Error, Handle, MemberStatus};

const INTERVAL: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A state of any size may take long; its beginning may not.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 5;

/// Which entry a state that is sent is the state after.
#[derive(Serialize, Deserialize)]
struct Header {
    index: u64,
}

/// Compares until the store ends.
pub(crate) async fn compare_loop(handle: Handle) {
    while handle.failure().is_none() {
        sleep(INTERVAL).await;
        let right = handle.opponents().await;
        if !right.is_empty() {
            handle.replace_state(&right).await;
        }
    }
}

/// What a majority agrees on that is not what this node has.
fn opposed(own: u64, others: &[u64], majority: usize) -> Option<u64> {
    let count = |digest: u64| others.iter().filter(|other| **other == digest).count();
    others.iter().copied().find(|other| *other != own && count(*other) >= majority)
}

impl Handle {
    /// The voters that agree on another state, where they are a majority.
    async fn opponents(&self) -> Vec<Member> {
        let Some((index, own)) = self.digests().last() else { return Vec::new() };
        let voters = self.members().into_iter().filter(MemberStatus::is_full_voter);
        let voters: Vec<_> = voters.collect();
        let ask = |member: Member| async move {
            match timeout(ANSWER_TIMEOUT, self.call(&member, Request::Digest(index))).await {
                Ok(Ok(Response::Digest(digest))) => Some((member, digest)),
                _ => None,
            }
        };
        let others = voters.iter().filter(|voter| voter.id != self.id()).map(|voter| ask(voter.member.clone()));
        let answers: Vec<(Member, u64)> = join_all(others).await.into_iter().flatten().collect();
        let digests: Vec<u64> = answers.iter().map(|(_, digest)| *digest).collect();
        // What was compared may have been replaced by a snapshot meanwhile.
        let still_own = self.digests().at(index) == Some(own);
        let wrong = opposed(own, &digests, voters.len() / 2 + 1).filter(|_| still_own);
        answers.into_iter().filter(|(_, digest)| Some(*digest) == wrong).map(|(member, _)| member).collect()
    }

    async fn replace_state(&self, right: &[Member]) {
        tracing::error!(
            revision = self.revision(),
            "this node's state is not that of the majority: it is replaced, and nobody is answered meanwhile"
        );
        self.set_differs(true);
        let _ = self.hand_over().await;
        for from in right.iter().cycle().take(ATTEMPTS.max(right.len())) {
            match self.copy_from(from).await {
                Ok(true) => {
                    let what = format!("its state was not that of the majority, and has been replaced by that of {}", from.name);
                    tracing::info!(what);
                    self.tell_replaced(what);
                    break;
                }
                Ok(false) => tracing::warn!(from = from.name, "the state does not fit this node's log; asking again"),
                Err(why) => tracing::warn!(from = from.name, %why, "the state cannot be had; asking again"),
            }
        }
        self.set_differs(false);
    }

    async fn copy_from(&self, member: &Member) -> Result<bool, Error> {
        let failed = |why: io::Error| Error::Stopped(why.to_string());
        let open = async {
            let mut frames = Frames::new(self.open(member, Channel::State).await?);
            let header = frames.next_bytes().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            io::Result::Ok((from_json::<Header>(&header)?, frames))
        };
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let (Header { index }, mut frames) = timeout(OPEN_TIMEOUT, open).await.map_err(late)?.map_err(failed)?;
        let state = receive_state(&mut frames).await.map_err(failed)?;
        let log = self.log().clone();
        let replaced = self.raft().with_state_machine(move |machine| {
            let replaced = machine.replace(state, index, &log);
            Box::pin(async move { replaced })
        });
        replaced.await.map_err(|why| Error::Stopped(why.to_string()))?.map_err(failed)
    }

    /// Sends this node's state to another that wants it.
    pub(crate) async fn serve_state(&self, frames: &mut Frames) -> io::Result<()> {
        if self.is_witness() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let view = self.local();
        frames.send_bytes(to_json(&Header { index: view.applied })).await?;
        send_state(frames, &view.state).await
    }

    /// The digest of this node's state after an entry, once it has applied that.
    pub(crate) async fn digest_at(&self, index: u64) -> Option<u64> {
        let mut view = self.watch();
        let reached = timeout(ANSWER_TIMEOUT / 2, view.wait_for(|view| view.applied >= index)).await;
        reached.ok()?.ok()?;
        self.digests().at(index).filter(|_| self.works().is_ok() && !self.is_witness())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_against_a_majority_is_wrong() {
        let check = |own, others: &[u64], voters: usize, expected| assert_eq!(opposed(own, others, voters / 2 + 1), expected, "{others:?}");
        check(1, &[1, 1], 3, None);
        check(1, &[2, 2], 3, Some(2));
        check(1, &[2], 3, None);
        check(1, &[2, 3], 3, None);
        check(1, &[1, 2], 3, None);
        check(1, &[2, 2, 3, 1], 5, None);
        check(1, &[2, 3, 2, 2], 5, Some(2));
        check(1, &[2], 1, Some(2));
        check(1, &[], 1, None);
    }
}
