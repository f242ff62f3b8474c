//! `skein status`: the cluster as one node sees it.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::client::Access;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    access: Access,
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
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
    println!("{:<20} {:<8} {:<6} {:<16} {:>6} {:>5}", "NODE", "ROLE", "READY", "ADDRESS", "LAG", "PODS");
    for node in status["nodes"].as_array().into_iter().flatten() {
        let ready = if node["ready"] == true { "yes" } else { "no" };
        println!(
            "{:<20} {:<8} {ready:<6} {:<16} {:>6} {:>5}",
            text(&node["name"]),
            text(&node["role"]),
            text(&node["address"]),
            text(&node["lag"]),
            text(&node["pods"])
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
        (true, Some(leader)) => println!("{leader} leads in term {}, at revision {}", status["term"], status["revision"]),
        _ => println!(
            "NO QUORUM: node {} cannot reach a majority of the voters. Writes and consistent reads wait; Pods keep running.\n\
             Read this node's replica with `kubectl --context stale`, and bring voters back.",
            text(&status["answeredBy"])
        ),
    }
}
