//! Appends on their way: many on one stream, answered in their order.
//!
//! ```text
//!   openraft ──▶ requests ──▶ Pipeline ══ one stream ══▶ serve_appends ──▶ openraft ──▶ log, one sync for several
//!            ◀── results  ◀──          ◀══ answers ════                ◀──
//! ```

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use openraft::type_config::alias::LogIdOf;
use skein_log::{NodeId, Types};
use tokio::time::{Instant, timeout};

use crate::patience::Patience;
use crate::wire::{Frames, encode_append, from_json};

/// Appends that may be on their way to one follower.
const ON_THEIR_WAY_MAX: usize = 64;

/// A follower whose disk is slow may take its time; one that says nothing for this long is asked on another stream.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2500);

pub(crate) type Answered = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// What a request covers: the entry before its first and its last.
type Range = (Option<LogIdOf<Types>>, Option<LogIdOf<Types>>);

pub(crate) struct Pipeline<'a, S> {
    /// Where the stream goes when all is answered, for the next pipeline.
    slot: &'a mut Option<Frames>,
    frames: Frames,
    requests: S,
    /// Whether there may be more requests.
    more: bool,
    sent: VecDeque<(Range, Instant)>,
    target: NodeId,
    patience: Patience,
}

// === impl Pipeline ===

impl<'a, S> Pipeline<'a, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'a,
{
    pub(crate) fn new(slot: &'a mut Option<Frames>, frames: Frames, requests: S, (target, patience): (NodeId, Patience)) -> Self {
        Self { slot, frames, requests, more: true, sent: VecDeque::new(), target, patience }
    }

    /// The answers; it ends after the last request, or with the first answer that is not a success.
    pub(crate) fn answers(self) -> impl Stream<Item = Answered> + Send + 'a {
        stream::unfold(Some(self), |pipeline| async {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                Ok(Some(result)) if result.is_ok() => Some((Ok(result), Some(pipeline))),
                Ok(Some(result)) => Some((Ok(result), None)),
                Ok(None) => {
                    *pipeline.slot = Some(pipeline.frames);
                    None
                }
                Err(why) => Some((Err(Unreachable::new(&why).into()), None)),
            }
        })
    }

    /// Sends what there is to send until an answer comes; `None` when everything is answered.
    async fn next(&mut self) -> io::Result<Option<StreamAppendResult<Types>>> {
        while self.more || !self.sent.is_empty() {
            tokio::select! {
                biased;
                answer = timeout(ANSWER_TIMEOUT, self.frames.next_bytes()), if !self.sent.is_empty() => {
                    let answer = answer.map_err(|_| io::ErrorKind::TimedOut)??.ok_or(io::ErrorKind::UnexpectedEof)?;
                    let answer: AppendEntriesResponse<Types> = from_json(&answer)?;
                    let ((previous, last), sent) = self.sent.pop_front().ok_or(io::ErrorKind::InvalidData)?;
                    self.patience.answered(self.target, sent);
                    return Ok(Some(answer.into_stream_result(previous, last)));
                }
                request = self.requests.next(), if self.more && self.sent.len() < ON_THEIR_WAY_MAX => match request {
                    Some(request) => {
                        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
                        self.sent.push_back(((request.prev_log_id, last), Instant::now()));
                        self.frames.send(&encode_append(&request, self.patience.pace())).await?;
                    }
                    None => self.more = false,
                },
            }
        }
        Ok(None)
    }
}
