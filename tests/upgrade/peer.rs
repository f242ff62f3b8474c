//! What nodes say to each other, in both directions of a rolling upgrade.

use bytes::Bytes;
use prost::Message;
use skein_object::usage::{Amounts, NodeUsage};
use skein_peer::{
    AddMember, Answer, Append, Call, Channel, Grant, LogPosition, NodeReport, Offer, Proposed, Relayed, Request, Response, Source,
};

use crate::command::{command, reply};
use crate::golden::{check, read};

fn call(request: Request) -> Call {
    Call { request: Some(request), ..Call::default() }
}

#[test]
fn messages_are_those_of_protocol_1() {
    assert_eq!(skein_peer::ALPN, b"skein/1");
    let channels = [Channel::Append, Channel::Call, Channel::Snapshot, Channel::Kubelet, Channel::Report, Channel::State, Channel::Follow];
    assert_eq!(channels.map(|channel| channel as u8), [1, 2, 3, 4, 5, 6, 7]);
    let json = Bytes::from_static(br#"{"leader_id":{"term":3,"voted_for":2},"committed":false}"#);
    let append = Append {
        vote: json.clone(),
        previous: Some(LogPosition { term: 2, index: 17 }),
        entries: vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")],
        commit: Some(LogPosition { term: 2, index: 16 }),
        pace: 0,
    };
    check("peer-append-1", &append);
    let source = Some(Source { way: vec![3, 8], silence_ms: 40 });
    check("peer-offer-1", &Offer { source: source.clone(), leads: true, is_full: true });
    check("peer-relayed-append-1", &Relayed { source: source.clone(), append: Some(append), snapshot: None });
    check("peer-relayed-snapshot-1", &Relayed { source, append: None, snapshot: Some(json.clone()) });
    let requests = [
        ("vote", Request::Vote(json.clone())),
        ("pre-vote", Request::PreVote(json.clone())),
        ("transfer", Request::TransferLeader(json.clone())),
        ("propose", Request::Propose(command().encode_to_vec().into())),
        ("read-index", Request::ReadIndex(true)),
        ("add-member", Request::AddMember(AddMember { id: 5, name: "node-5".into(), address: "198.18.0.15:6444".into(), witness: None })),
        (
            "add-witness",
            Request::AddWitness(AddMember {
                id: 6,
                name: "node-6".into(),
                address: "198.18.0.16:6444".into(),
                witness: Some("eu/1".into()),
            }),
        ),
        ("replicated", Request::Replicated(true)),
        ("follow", Request::Follow(true)),
        ("authorities", Request::Authorities(true)),
        ("install-keys", Request::InstallKeys(json.clone())),
        ("join", Request::Join(json.clone())),
        ("renew", Request::Renew(json.clone())),
        ("sealing-key", Request::SealingKey(true)),
        ("sign-token", Request::SignToken(json.clone())),
        ("authority", Request::Authority(json.clone())),
    ];
    for (name, request) in requests {
        check(&format!("peer-call-{name}-1"), &call(request));
    }
    let responses = [
        ("raft", Response::Raft(json)),
        ("proposed", Response::Proposed(Proposed { index: 18, reply: reply().encode_to_vec().into() })),
        ("read-index", Response::ReadIndex(18)),
        ("not-leader", Response::NotLeader(true)),
        ("failed", Response::Failed("the disk is full".into())),
    ];
    for (name, response) in responses {
        check(&format!("peer-answer-{name}-1"), &Answer { response: Some(response) });
    }
    let usage =
        NodeUsage { time_ms: 1_750_000_000_000, window_ms: 10_000, total: Some(Amounts { cpu_nano: 5, memory_bytes: 6 }), pods: vec![] };
    check("peer-report-1", &NodeReport { node: "node-1".into(), applied: 18, usage: Some(usage), sent_ns: 0, follows: String::new() });
    check("peer-grant-1", &Grant { sent_ns: 7, applied: 18, age_ns: 9 });
}

/// Nodes that say how fast their clocks go, how much they write, and when they report, are understood by those that know nothing of it, and
/// the other way round.
#[test]
fn what_was_added_is_left_out_where_it_says_nothing() {
    let told = Call { request: Some(Request::ReadIndex(true)), pace: 4, node: 2, writes: 9 };
    check("peer-call-1-with-pace", &told);
    let older = read("peer-call-read-index-1", b"");
    assert_eq!(Call::decode(older.as_slice()), Ok(call(Request::ReadIndex(true))));
    let append = Append { pace: 4, ..Append::default() };
    check("peer-append-1-with-pace", &append);
    let report = NodeReport { node: "node-1".into(), applied: 18, usage: None, sent_ns: 7, follows: String::new() };
    check("peer-report-1-with-time", &report);
    check("peer-report-1-of-a-follower", &NodeReport { follows: "node-2".into(), ..report });
}
