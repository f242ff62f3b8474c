//! Proposals: what waits together becomes one log entry.
//!
//! ```text
//!   propose ─┐
//!   propose ─┼─▶ batch_loop ──▶ one command ──▶ the leader ──▶ applied here ──▶ everyone's outcomes
//!   propose ─┘   (while one is on its way, the next ones gather)
//! ```

use bytes::Bytes;
use futures::future::join_all;
use openraft::errors::{ClientWriteError, RaftError};
use prost::Message;
use skein_command::{COMMAND_BYTES_MAX, Command, LEVEL, Outcome, Reply, Transaction};
use skein_log::{NodeId, Proposal};
use skein_peer::{Call, Proposed, Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::handle::{Attempt, QUORUM_TIMEOUT};
use crate::{Error, Handle};

/// Proposals that may wait for their turn. Beyond it the caller waits in its own task.
const WAITING_MAX: usize = 65_536;

/// Neighbours share a command up to this size. One proposal that is larger has a command for itself.
const SHARED_BYTES_MAX: usize = 1 << 20;

/// What somebody has proposed and waits for.
pub(crate) struct Waiting {
    transactions: Vec<Transaction>,
    bytes: usize,
    outcomes: oneshot::Sender<Result<Vec<Outcome>, Error>>,
}

pub(crate) fn channel() -> (mpsc::Sender<Waiting>, mpsc::Receiver<Waiting>) {
    mpsc::channel(WAITING_MAX)
}

/// Carries proposals to the leader until nobody can make any. All that wait go at once, and the next ones gather
/// meanwhile: with more commands on their way each would carry less, and an entry costs all nodes more than what is in
/// it.
pub(crate) async fn batch_loop(handle: Handle, mut proposals: mpsc::Receiver<Waiting>) {
    let mut arrived = Vec::new();
    while proposals.recv_many(&mut arrived, WAITING_MAX).await > 0 {
        let batches = share(arrived.drain(..).filter(|waiting| !waiting.outcomes.is_closed()));
        join_all(batches.into_iter().map(|batch| handle.carry(batch))).await;
    }
}

/// Which of them go together, in their order.
fn share(arrived: impl Iterator<Item = Waiting>) -> Vec<Vec<Waiting>> {
    let mut batches: Vec<Vec<Waiting>> = Vec::new();
    let mut room = 0;
    for waiting in arrived {
        match batches.last_mut().filter(|_| waiting.bytes <= room) {
            Some(batch) => {
                room -= waiting.bytes;
                batch.push(waiting);
            }
            None => {
                room = SHARED_BYTES_MAX.saturating_sub(waiting.bytes);
                batches.push(vec![waiting]);
            }
        }
    }
    batches
}

impl Handle {
    /// Proposes one transaction and waits until this node has applied it.
    pub async fn propose(&self, transaction: Transaction) -> Result<Outcome, Error> {
        let mut outcomes = self.propose_all(vec![transaction]).await?;
        outcomes.pop().ok_or_else(|| Error::Stopped("a reply without outcomes".into()))
    }

    /// Proposes transactions that are independent of each other, in one log entry.
    pub async fn propose_all(&self, transactions: Vec<Transaction>) -> Result<Vec<Outcome>, Error> {
        let bytes = transactions.iter().map(Message::encoded_len).sum();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Error::Refused(format!("a proposal of {bytes} bytes is over the limit of {COMMAND_BYTES_MAX}")));
        }
        self.works()?;
        let gone = || Error::Stopped("nobody carries proposals any more".into());
        let (outcomes, receiver) = oneshot::channel();
        self.proposals().send(Waiting { transactions, bytes, outcomes }).await.map_err(|_| gone())?;
        match timeout(QUORUM_TIMEOUT, receiver).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            Err(_) => self.works().and(Err(Error::Timeout(QUORUM_TIMEOUT))),
        }
    }

    /// Takes a batch to the leader, under one name, and tells everyone what became of it.
    async fn carry(&self, batch: Vec<Waiting>) {
        let mut transactions = Vec::with_capacity(batch.len());
        let mut tellers = Vec::with_capacity(batch.len());
        for Waiting { transactions: own, outcomes, .. } in batch {
            tellers.push((own.len(), outcomes));
            transactions.extend(own);
        }
        match self.command(transactions).await {
            Ok(all) => {
                let mut all = all.into_iter();
                for (count, outcomes) in tellers {
                    let _ = outcomes.send(Ok(all.by_ref().take(count).collect()));
                }
            }
            Err(why) => tellers.into_iter().for_each(|(_, outcomes)| drop(outcomes.send(Err(why.shared())))),
        }
    }

    async fn command(&self, transactions: Vec<Transaction>) -> Result<Vec<Outcome>, Error> {
        let count = transactions.len();
        // What is fenced by a term is the leader's own, wherever that is.
        let writes = transactions.iter().filter(|transaction| transaction.epoch == 0).count() as u64;
        let deadline = Instant::now() + QUORUM_TIMEOUT;
        let proposal = Proposal::from(&Command { level: LEVEL, id: Some(self.next_proposal()), transactions });
        let proposed = self.until(deadline, || self.propose_once(proposal.0.clone(), writes)).await?;
        self.wait_applied(proposed.index, deadline).await?;
        let outcomes = Reply::decode(proposed.reply).map_err(|e| Error::Stopped(e.to_string()))?.outcomes;
        if outcomes.len() == count { Ok(outcomes) } else { Err(Error::Stopped("a reply without outcomes".into())) }
    }

    async fn propose_once(&self, proposal: Bytes, writes: u64) -> Result<Proposed, Attempt> {
        let node = self.id();
        if self.leadership().is_self {
            return self.propose_here(proposal, (node, writes)).await.map_err(Attempt::from);
        }
        match self.send_leader(Call { request: Some(Request::Propose(proposal)), pace: 0, node, writes }).await? {
            Response::Proposed(proposed) => Ok(proposed),
            Response::Failed(why) => Err(Attempt::Fail(Error::Refused(why))),
            _ => Err(Attempt::Retry),
        }
    }

    /// The leader's part of a proposal that a node took: in the log and applied there. A witness that leads could not answer
    /// it: its successor does.
    pub(crate) async fn propose_here(&self, proposal: Bytes, (node, writes): (NodeId, u64)) -> Result<Proposed, Option<Error>> {
        if self.is_witness() {
            return Err(None);
        }
        match self.raft().client_write(Proposal(proposal)).await {
            Ok(response) => {
                self.writers().wrote(*response.log_id.leader_id, node, writes);
                Ok(Proposed { index: response.log_id.index, reply: response.data.0 })
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_))) => Err(None),
            Err(RaftError::APIError(other)) => Err(Some(Error::Refused(other.to_string()))),
            Err(RaftError::Fatal(why)) => Err(Some(Error::Stopped(why.to_string()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(bytes: usize) -> Waiting {
        Waiting { transactions: Vec::new(), bytes, outcomes: oneshot::channel().0 }
    }

    #[test]
    fn small_proposals_travel_together_in_their_order() {
        let sizes = [10, 20, SHARED_BYTES_MAX, SHARED_BYTES_MAX / 2, SHARED_BYTES_MAX / 2, 1, 3 * SHARED_BYTES_MAX, 5];
        let batches = share(sizes.map(waiting).into_iter());
        let shown: Vec<Vec<usize>> = batches.iter().map(|batch| batch.iter().map(|w| w.bytes).collect()).collect();
        let half = SHARED_BYTES_MAX / 2;
        assert_eq!(shown, [vec![10, 20], vec![SHARED_BYTES_MAX], vec![half, half], vec![1], vec![3 * SHARED_BYTES_MAX], vec![5]]);
    }
}
