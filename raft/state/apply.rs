//! The deterministic step.

use std::sync::Arc;

use skein_command::{Action, Cause, Command, Expect, LEVEL, Outcome, Reply, Transaction, Write};
use skein_object::{Key, Record, quota};

use crate::{Entry, Event, State};

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// Applies one command that was committed at `at`.
pub fn apply(state: &State, command: &Command, at: Position) -> (State, Reply, Vec<Event>) {
    if let Some(reply) = command.id.and_then(|id| state.replies.find(id)) {
        return (state.clone(), reply.clone(), Vec::new());
    }
    let mut next = state.clone();
    let mut events = Vec::new();
    let mut outcomes = Vec::with_capacity(command.transactions.len());
    for transaction in &command.transactions {
        let outcome = if command.level > LEVEL {
            Outcome::refused(0, Cause::UnknownLevel, 0)
        } else {
            match check(&next, transaction, at.term) {
                Ok(()) => Outcome::done(commit(&mut next, transaction, &mut events)),
                Err((write, cause, found)) => Outcome::refused(write, cause, found),
            }
        };
        outcomes.push(outcome);
    }
    let reply = Reply { outcomes };
    if let Some(id) = command.id {
        next.replies.remember(at.index, id, reply.clone());
    }
    (next, reply, events)
}

type Failure = (usize, Cause, u64);

fn check(state: &State, transaction: &Transaction, term: u64) -> Result<(), Failure> {
    if transaction.epoch != 0 && transaction.epoch != term {
        return Err((0, Cause::Fenced, term));
    }
    for (index, write) in transaction.writes.iter().enumerate() {
        check_write(state, write).map_err(|(cause, found)| (index, cause, found))?;
    }
    Ok(())
}

fn check_write(state: &State, write: &Write) -> Result<(), (Cause, u64)> {
    let key = Key::parse(&write.key).ok_or((Cause::Malformed, 0))?;
    let found = state.get(&key).map(|entry| entry.revision);
    match (write.expect, found) {
        (Some(Expect::Absent(_)), Some(revision)) => return Err((Cause::AlreadyExists, revision)),
        (Some(Expect::Revision(_) | Expect::Present(_)), None) => return Err((Cause::NotFound, 0)),
        (Some(Expect::Revision(wanted)), Some(revision)) if wanted != revision => return Err((Cause::Conflict, revision)),
        _ => {}
    }
    if matches!(write.action, Some(Action::Change(_))) && found.is_none() {
        return Err((Cause::NotFound, 0));
    }
    match (&write.action, state.get(&key)) {
        (None, _) => return Err((Cause::Malformed, 0)),
        (Some(Action::Charge(_)), None) => return Err((Cause::NotFound, 0)),
        (Some(Action::Charge(charge)), Some(quota)) if quota::charged(&quota.record, &charge.amounts()).is_none() => {
            return Err((Cause::QuotaExceeded, quota.revision));
        }
        _ => {}
    }
    if write.in_active_namespace {
        match state.get(&Key::new("namespaces", "", key.namespace())) {
            None => return Err((Cause::NamespaceNotFound, 0)),
            Some(namespace) if is_terminating(&namespace.record) => return Err((Cause::NamespaceTerminating, 0)),
            Some(_) => {}
        }
    }
    Ok(())
}

/// A namespace is being deleted when its metadata says so; looking for the field's name is enough, since a label or
/// annotation of that name would have a quote escaped or a prefix before it.
fn is_terminating(record: &Record) -> bool {
    let needle = br#""deletionTimestamp":"#;
    record.segment("metadata").is_some_and(|json| json.windows(needle.len()).any(|w| w == needle))
}

/// Writes a transaction whose preconditions hold; returns the last revision.
fn commit(state: &mut State, transaction: &Transaction, events: &mut Vec<Event>) -> u64 {
    for write in &transaction.writes {
        let Some(key) = Key::parse(&write.key) else { continue };
        let before = state.objects.get(&key).cloned();
        let record = match (&write.action, &before) {
            (Some(Action::Put(record)), _) => Some(record.clone()),
            (Some(Action::Change(changes)), Some(before)) => {
                let record = before.record.with_changes(&changes.segments);
                if record == *before.record {
                    // Nothing changed: Kubernetes gives no new resourceVersion to a write without effect.
                    continue;
                }
                Some(record)
            }
            (Some(Action::Charge(charge)), Some(before)) => match quota::charged(&before.record, &charge.amounts()) {
                Some(record) => Some(record),
                None => continue,
            },
            (Some(Action::Delete(_)), Some(_)) => None,
            _ => continue,
        };
        state.revision += 1;
        let revision = state.revision;
        let after = record.map(|record| Entry { revision, record: Arc::new(record) });
        state.set(key.clone(), after.clone());
        events.push(Event { revision, key, before, after });
    }
    state.revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_command::ProposalId;

    fn at(state: &State, command: &Command, term: u64) -> (State, Reply, Vec<Event>) {
        apply(state, command, Position { term, index: command.id.map_or(0, |id| id.sequence) })
    }

    fn record(value: u32) -> Record {
        Record::from_value(&json!({"metadata": {"name": "x"}, "data": {"v": value}}))
    }

    fn command(sequence: u64, writes: Vec<Write>) -> Command {
        let transaction = Transaction { epoch: 0, writes };
        Command { level: LEVEL, id: Some(ProposalId { incarnation: 1, sequence }), transactions: vec![transaction] }
    }

    fn namespaced(state: &State) -> State {
        let key = Key::new("namespaces", "", "n");
        let record = Record::from_value(&json!({"metadata": {"name": "n"}}));
        at(state, &command(1000, vec![Write { in_active_namespace: false, ..Write::create(&key, record) }]), 1).0
    }

    fn outcome(reply: &Reply) -> Result<u64, Cause> {
        reply.outcomes[0].result().map_err(|refusal| refusal.cause())
    }

    #[test]
    fn creates_updates_and_deletes_with_a_revision_each() {
        let state = namespaced(&State::default());
        let key = Key::new("configmaps", "n", "x");
        let (state, reply, events) = at(&state, &command(1, vec![Write::create(&key, record(1))]), 1);
        assert_eq!((outcome(&reply), events.len()), (Ok(2), 1));
        let (state, reply, events) = at(&state, &command(2, vec![Write::update(&key, 2, &record(1), &record(2))]), 1);
        assert_eq!((outcome(&reply), events[0].after.as_ref().map(|e| e.revision)), (Ok(3), Some(3)));
        let (state, reply, events) = at(&state, &command(3, vec![Write::delete(&key, 3)]), 1);
        assert_eq!((outcome(&reply), events[0].after.is_none(), state.get(&key)), (Ok(4), true, None));
    }

    #[test]
    fn what_was_is_what_is_less_what_has_happened_since() {
        let (x, y) = (Key::new("configmaps", "n", "x"), Key::new("configmaps", "n", "y"));
        let (old, ..) = at(&namespaced(&State::default()), &command(1, vec![Write::create(&x, record(1))]), 1);
        let (state, _, changed) = at(&old, &command(2, vec![Write::update(&x, 2, &record(1), &record(2))]), 1);
        let (state, _, created) = at(&state, &command(3, vec![Write::create(&y, record(1))]), 1);
        let (state, _, deleted) = at(&state, &command(4, vec![Write::delete(&x, 3)]), 1);
        let events = [changed, created, deleted].concat();
        assert_ne!(state.digest(), old.digest());
        assert_eq!(state.before(events.iter()).digest(), old.digest());
    }

    #[test]
    fn refuses_what_does_not_hold() {
        let state = namespaced(&State::default());
        let key = Key::new("configmaps", "n", "x");
        let (state, ..) = at(&state, &command(1, vec![Write::create(&key, record(1))]), 1);
        let check = |sequence, write: Write, expected| {
            let (after, reply, events) = at(&state, &command(sequence, vec![write]), 1);
            assert_eq!((outcome(&reply), events.len(), after.revision()), (Err(expected), 0, state.revision()));
        };
        check(2, Write::create(&key, record(1)), Cause::AlreadyExists);
        check(3, Write::update(&key, 9, &record(1), &record(2)), Cause::Conflict);
        check(4, Write::delete(&Key::new("configmaps", "n", "y"), 1), Cause::NotFound);
        check(5, Write::create(&Key::new("configmaps", "m", "x"), record(1)), Cause::NamespaceNotFound);
        check(6, Write { key: "nonsense".into(), ..Write::delete(&key, 1) }, Cause::Malformed);
    }

    #[test]
    fn a_retry_gets_the_first_reply_and_changes_nothing() {
        let state = namespaced(&State::default());
        let key = Key::new("configmaps", "n", "x");
        let create = command(1, vec![Write::create(&key, record(1))]);
        let (state, first, _) = at(&state, &create, 1);
        let (again, second, events) = at(&state, &create, 2);
        assert_eq!((second, events.len(), again.revision()), (first, 0, state.revision()));
    }

    #[test]
    fn a_transaction_happens_as_a_whole_or_not_at_all() {
        let state = namespaced(&State::default());
        let (a, b) = (Key::new("configmaps", "n", "a"), Key::new("configmaps", "n", "b"));
        let (after, _, events) = at(&state, &command(1, vec![Write::create(&a, record(1)), Write::delete(&b, 1)]), 1);
        assert_eq!((after.get(&a), events.len()), (None, 0));
    }

    #[test]
    fn a_quota_is_never_overdrawn() {
        let state = namespaced(&State::default());
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}});
        let quotas = Key::new("resourcequotas", "n", "q");
        let (state, ..) = at(&state, &command(1, vec![Write::create(&quotas, Record::from_value(&quota))]), 1);
        let charge = quota::Charge { quota: "q".into(), amounts: [("pods".into(), "1".parse().expect("a quantity"))].into() };
        let create = |name: &str| vec![Write::charge("n", &charge), Write::create(&Key::new("pods", "n", name), record(1))];
        let (state, reply, events) = at(&state, &command(2, create("a")), 1);
        assert_eq!((outcome(&reply), events.len()), (Ok(4), 2));
        let (after, reply, events) = at(&state, &command(3, create("b")), 1);
        assert_eq!((outcome(&reply), events.len(), after.get(&Key::new("pods", "n", "b"))), (Err(Cause::QuotaExceeded), 0, None));
    }

    #[test]
    fn an_old_leader_is_fenced() {
        let key = Key::new("nodes", "", "a");
        let write = Write { in_active_namespace: false, ..Write::create(&key, record(1)) };
        let fenced = Command { level: LEVEL, id: None, transactions: vec![Transaction { epoch: 3, writes: vec![write] }] };
        assert_eq!(outcome(&at(&State::default(), &fenced, 4).1), Err(Cause::Fenced));
        assert_eq!(outcome(&at(&State::default(), &fenced, 3).1), Ok(1));
    }

    #[test]
    fn a_newer_command_is_refused() {
        let newer = Command { level: LEVEL + 1, id: None, transactions: vec![Transaction::default()] };
        assert_eq!(outcome(&at(&State::default(), &newer, 1).1), Err(Cause::UnknownLevel));
    }
}
