//! Commands and replies: in the log, in snapshots and between nodes.

use serde_json::json;
use skein_command::{
    Action, Amount, Cause, Changes, Charge, Command, Expect, LEVEL, Outcome, ProposalId, Refusal, Reply, Transaction, Verdict, Write,
};
use skein_object::record::Segment;
use skein_object::{Key, Record};

use crate::golden::check;

pub(crate) fn record() -> Record {
    Record::from_value(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "flock", "namespace": "north", "uid": "2b6f2d1e-6a5c-4f6b-9a55-0d8c5b1a7e11", "resourceVersion": "9"},
        "data": {"geese": "7", "text": "größer\n"},
    }))
}

/// Everything that a command can hold.
pub(crate) fn command() -> Command {
    let key = Key::new("configmaps", "north", "flock");
    let write =
        |expect: Option<Expect>, action: Action| Write { key: key.to_string(), expect, in_active_namespace: false, action: Some(action) };
    let segments =
        vec![Segment { field: "data".into(), json: r#"{"geese":"8"}"#.into() }, Segment { field: "immutable".into(), json: "".into() }];
    let charge = Charge { amounts: vec![Amount { name: "pods".into(), quantity: "1000m".into() }] };
    Command {
        level: LEVEL,
        id: Some(ProposalId { incarnation: 0x0123_4567_89ab_cdef, sequence: 42 }),
        transactions: vec![
            Transaction { epoch: 0, writes: vec![Write::create(&key, record())] },
            Transaction {
                epoch: 7,
                writes: vec![
                    write(Some(Expect::Revision(9)), Action::Change(Changes { segments })),
                    write(Some(Expect::Present(true)), Action::Check(true)),
                    write(None, Action::Charge(charge)),
                    write(Some(Expect::Revision(10)), Action::Delete(true)),
                ],
            },
        ],
    }
}

pub(crate) fn reply() -> Reply {
    let refused = |cause: Cause| Verdict::Refused(Refusal { write: 3, cause: cause as i32, found: 12 });
    let verdicts = [Verdict::Done(9), refused(Cause::Conflict), refused(Cause::QuotaExceeded)];
    Reply { outcomes: verdicts.map(|verdict| Outcome { verdict: Some(verdict) }).into() }
}

#[test]
fn commands_and_replies_are_those_of_level_1() {
    check("command-1", &command());
    check("reply-1", &reply());
    check("record-1", &record());
    check("record-1-of-a-version", &record().in_version("example.com/v2"));
}
