//! openraft's state machine: applies committed entries to the state, to the disk and to the watch history.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, LogIdOptionExt, OptionalSend};
use prost::Message;
use skein_command::{Command, Reply};
use skein_state::{Event, Position, State, apply};
use tokio::sync::watch;

use crate::medium::{Batch, Medium};
use crate::recent::Recent;
use crate::types::Answer;
use crate::{Digests, Disk, Error, LogStore, Types};

/// Entries that are written to disk and published together, when they are there together.
const BATCH_ENTRIES_MAX: usize = 512;

/// What everyone on the node reads: the state as of one index. A clone costs nothing.
#[derive(Clone, Default)]
pub struct View {
    pub state: State,
    /// Log index of the last applied entry.
    pub applied: u64,
    pub term: u64,
}

/// The machine, which openraft takes, and what everyone else reads: the view and what has happened lately.
pub type Opened = (Machine, watch::Receiver<View>, Arc<Recent>);

pub struct Machine {
    disk: Arc<Disk>,
    /// Empty for ever on a witness.
    state: State,
    keeps_state: bool,
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    recent: Arc<Recent>,
    digests: Arc<Digests>,
    publish: watch::Sender<View>,
}

// === impl Machine ===

impl Machine {
    /// Loads the state; the view and the recent events are shared with all who read. One that keeps no state knows only how
    /// far the log is committed, and who the members are.
    pub fn open(medium: Arc<dyn Medium>, keeps_state: bool) -> Result<Opened, Error> {
        let disk = Disk::new(medium);
        let loaded = disk.load()?;
        let recent = Arc::new(Recent::starting_at(loaded.state.revision()));
        let (publish, view) = watch::channel(View::default());
        let machine = Self {
            disk: Arc::new(disk),
            state: loaded.state,
            keeps_state,
            applied: loaded.applied,
            membership: loaded.membership,
            recent: Arc::clone(&recent),
            digests: Arc::default(),
            publish,
        };
        machine.digests.restart_at(machine.applied.index().unwrap_or(0), machine.state.digest());
        machine.publish();
        Ok((machine, view, recent))
    }

    /// Of the state after each of the last entries.
    pub fn digests(&self) -> Arc<Digests> {
        Arc::clone(&self.digests)
    }

    /// Puts another node's state in the place of this one's, and applies to it what has been applied here since. False
    /// where the log does not have that.
    pub fn replace(&mut self, state: State, index: u64, log: &LogStore) -> io::Result<bool> {
        let Some(applied) = self.applied.filter(|applied| applied.index >= index) else { return Ok(false) };
        let since = log.read(index + 1, applied.index + 1, usize::MAX)?;
        if since.len() as u64 != applied.index - index {
            return Ok(false);
        }
        self.state = state;
        for entry in since {
            self.step(entry, &mut Batch::default(), &mut Vec::new());
        }
        self.disk.rewrite(&self.state, self.applied, &self.membership)?;
        self.restart();
        Ok(true)
    }

    /// Everybody who reads begins anew.
    fn restart(&self) {
        self.digests.restart_at(self.applied.index().unwrap_or(0), self.state.digest());
        self.recent.restart_at(self.state.revision());
        self.publish();
        self.recent.tell_all();
    }

    fn publish(&self) {
        let (applied, term) = self.applied.map_or((0, 0), |id| (id.index, *id.leader_id));
        self.publish.send_replace(View { state: self.state.clone(), applied, term });
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn applied(&self) -> Option<LogIdOf<Types>> {
        self.applied
    }

    pub(crate) fn membership(&self) -> &StoredMembershipOf<Types> {
        &self.membership
    }

    /// Applies one entry to the state in memory; what must reach the disk goes into the batch.
    pub(crate) fn step(
        &mut self,
        entry: openraft::type_config::alias::EntryOf<Types>,
        batch: &mut Batch,
        events: &mut Vec<Event>,
    ) -> Answer {
        let id = entry.log_id;
        self.applied = Some(id);
        let answer = match entry.payload {
            EntryPayload::Blank => Answer::default(),
            EntryPayload::Normal(_) if !self.keeps_state => Answer::default(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembershipOf::<Types>::new(Some(id), membership);
                Answer::default()
            }
            EntryPayload::Normal(proposal) => {
                // A command that cannot be decoded is a command without transactions: every node sees it alike.
                let command = Command::decode(proposal.0).unwrap_or_default();
                let at = Position { term: *id.leader_id, index: id.index };
                let (next, reply, new) = apply(&self.state, &command, at);
                self.state = next;
                new.iter().for_each(|event| batch.event(event));
                if let Some(proposal) = command.id {
                    batch.reply(id.index, proposal, &reply);
                }
                events.extend(new);
                Answer::from(&reply)
            }
        };
        self.digests.push(id.index, self.state.digest());
        answer
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        self.disk.write(batch, self.applied, &self.membership, &self.state)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = State;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut batch = Batch::default();
            let mut events = Vec::new();
            let mut answers = Vec::new();
            for item in chunk {
                let (entry, responder) = item?;
                let answer = self.step(entry, &mut batch, &mut events);
                answers.extend(responder.map(|r| (r, answer)));
            }
            self.write(batch)?;
            let concerned = self.recent.push(events);
            self.publish();
            self.recent.tell(&concerned);
            for (responder, answer) in answers {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { disk: Arc::clone(&self.disk), snapshot: self.snapshot() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, state: State) -> io::Result<()> {
        self.state = if self.keeps_state { state } else { State::default() };
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.disk.replace(&self.state, self.applied, &self.membership).await?;
        self.restart();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, State>>> {
        if self.applied.is_none() {
            return Ok(None);
        }
        self.disk.flush().await?;
        Ok(Some(self.snapshot()))
    }
}

impl Machine {
    fn snapshot(&self) -> SnapshotOf<Types, State> {
        let meta = SnapshotMetaOf::<Types> { last_log_id: self.applied, last_membership: self.membership.clone() };
        SnapshotOf::<Types, State> { meta, snapshot: self.state.clone() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.recent.end();
    }
}

/// Makes a snapshot durable: the state on disk is one, once it is flushed.
pub struct Builder {
    disk: Arc<Disk>,
    snapshot: SnapshotOf<Types, State>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = State;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, State>> {
        self.disk.flush().await?;
        Ok(self.snapshot.clone())
    }
}

/// The reply that an answer carries.
impl From<&Answer> for Reply {
    fn from(answer: &Answer) -> Self {
        Self::decode(answer.0.clone()).unwrap_or_default()
    }
}
