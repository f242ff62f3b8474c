//! `skein status`: the cluster as one node sees it.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::client::{Access, Output};

/// How the leader chooses who votes; the numbers are those of `skein_store::plan` and of the daemon's keeper.
const VOTERS: &str = "Roles:
  leader, voter   take part in every decision: 1 of up to two nodes, 3 from three on, 5 from seven, 7 from twenty-five
  standby         has the log from the leader and votes as soon as it is needed; it is caught up when it lacks at most 200
                  entries. Up to two of each region, of the zones with the fewest voters
  replica         has the log from another node, as FOLLOWS says: the nearest of some that it asks, at most 8 of them from
                  one, and another when that one goes, hears nothing of the leader for 3 s, or begins to lead
  witness         votes and keeps no state (`skein up --witness`); it leads only until another voter has the whole log
  spare           a witness whose vote is not needed

Two nodes alone have one voter: the cluster stands still without that one, and goes on without the other. With a witness
as third all three vote, and any one of them may be lost. No more than one witness votes, and only where no other node
does it as well: one that keeps the state, in a zone where no other voter is.

Elections follow what an answer from a majority takes: where it is below 25 ms, a leader that is silent for 130 to 160 ms
is replaced; where it is more, that takes as many times longer, up to 100 times.

A voter that is silent for 10 s, or was away for a second or more three times within 10 minutes, gives its vote to a
standby that is caught up. Voters are spread over the regions and zones of nodes (`skein up --region --zone`). A leader
that is stopped in order, or whose disk is slow (more than 500 ms behind the majority's for 2 s), lets another voter
lead; so does one, for a voter of another region, when more than two thirds of half a minute's writes (of 200 at least)
came from there. `kubectl get events` tells of every change.";

#[derive(Args)]
#[command(after_long_help = VOTERS)]
pub(crate) struct Arguments {
    #[command(flatten)]
    access: Access,
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let status = crate::block_on(arguments.access.ask("GET", "/skein/v1/status", None))?;
    match arguments.output {
        Output::Json => println!("{status:#}"),
        Output::Table => print_table(&status),
    }
    Ok(())
}

fn print_table(status: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    println!("{:<20} {:<8} {:<6} {:<16} {:>6} {:>5}  FOLLOWS", "NODE", "ROLE", "READY", "ADDRESS", "LAG", "PODS");
    for node in status["nodes"].as_array().into_iter().flatten() {
        let ready = match node["ready"].as_bool() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        println!(
            "{:<20} {:<8} {ready:<6} {:<16} {:>6} {:>5}  {}",
            text(&node["name"]),
            text(&node["role"]),
            text(&node["address"]),
            text(&node["lag"]),
            text(&node["pods"]),
            text(&node["follows"])
        );
    }
    println!();
    if let Some(failure) = status["failure"].as_str() {
        println!(
            "THE STORE OF NODE {} HAS STOPPED: {failure}\nIt starts again by itself once its disk takes writes.",
            text(&status["answeredBy"])
        );
        return;
    }
    match (status["quorum"] == true, status["leader"].as_str()) {
        (true, Some(leader)) => {
            println!("{leader} leads in term {}, at revision {}", status["term"], status["revision"]);
            if let Some(pace) = status["pace"].as_u64().filter(|pace| *pace > 1) {
                println!("Links or disks are slow: an election takes {pace} times as long as on a fast network.");
            }
        }
        _ => println!(
            "NO QUORUM: node {} cannot reach a majority of the voters. Writes and consistent reads wait; Pods keep running.\n\
             Read this node's replica with `kubectl --context stale`, and bring voters back.",
            text(&status["answeredBy"])
        ),
    }
}
