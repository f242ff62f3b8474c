//! `skein ca`: gives the cluster's CA a successor, while everything goes on.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Access, Output};

const PATH: &str = "/skein/v1/authority";

/// How often it is asked how far the cluster is.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an administrator does, in its order.
const STEPS: &str = "A change of the CA goes like this, and can be left and taken up again anywhere, from any node:

  skein ca rotate      Makes a new CA. First every node trusts both, then the new one signs: nodes get new certificates,
                       Secrets are sealed anew. Nothing stops working. Returns when that is done.
  skein kubeconfig     on a node that votes, prints a kubeconfig of the new CA. Users with certificates of their own
                       (CertificateSigningRequests) ask for new ones.
  skein ca retire      Ends trust in the former CA: certificates that it has signed are good for nothing any more.

A node that is away meanwhile gets back in by its key. A client that trusts only the former CA goes on knowing the cluster's
nodes by it: they show what it has certified of the new one.";

#[derive(Subcommand)]
#[command(after_long_help = STEPS)]
pub(crate) enum Verb {
    /// Show which CAs are trusted, which one signs, and what a change of them waits for
    Status(Arguments),
    /// Give the CA a successor, and wait until every node goes by it
    Rotate(Arguments),
    /// End trust in the former CA, once no node needs it
    Retire(Arguments),
}

#[derive(Args)]
#[command(after_long_help = STEPS)]
pub(crate) struct Arguments {
    #[command(flatten)]
    access: Access,
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Status(arguments) => crate::block_on(arguments.step("show")).map(|status| arguments.print(&status)),
        Verb::Rotate(arguments) => crate::block_on(arguments.rotate()).map(|status| arguments.print(&status)),
        Verb::Retire(arguments) => crate::block_on(arguments.step("retire")).map(|status| arguments.print(&status)),
    }
}

// === impl Arguments ===

impl Arguments {
    async fn step(&self, step: &str) -> Result<Value> {
        self.access.ask("POST", PATH, Some(&json!({"step": step}))).await
    }

    /// Says on standard error what is waited for, each time that it is something else.
    async fn rotate(&self) -> Result<Value> {
        let mut status = match self.step("rotate").await {
            Ok(status) => status,
            Err(why) => {
                let status = self.step("show").await?;
                if status["phase"] == "Settled" {
                    return Err(why);
                }
                eprintln!("a change of the CA is under way already");
                status
            }
        };
        let mut said = String::new();
        loop {
            let missing = waits_for(&status);
            if status["phase"] == "Signing" && missing.is_empty() {
                eprintln!("the new CA signs; get new kubeconfigs (`skein kubeconfig` on a node that votes), then: skein ca retire");
                return Ok(status);
            }
            let now = if missing.is_empty() { "the new CA is about to sign".into() } else { missing.join("; ") };
            if now != said {
                eprintln!("{now}");
                said = now;
            }
            tokio::time::sleep(INTERVAL).await;
            // A leader that goes in the middle has a successor that goes on.
            match self.step("show").await {
                Ok(now) => status = now,
                Err(why) => eprintln!("{why:#}; asking again"),
            }
        }
    }

    fn print(&self, status: &Value) {
        if self.output == Output::Json {
            println!("{status:#}");
            return;
        }
        let yes = |value: &Value| if value == true { "yes" } else { "no" };
        println!("{:<24} {:<8} {:<6} {:<22} SHA-256", "CA", "TRUSTED", "SIGNS", "NOT AFTER");
        for authority in status["authorities"].as_array().into_iter().flatten() {
            let text = |field: &str| authority[field].as_str().unwrap_or_default();
            let (trusted, signs) = (yes(&authority["trusted"]), yes(&authority["signs"]));
            println!("{:<24} {trusted:<8} {signs:<6} {:<22} {}", text("name"), text("notAfter"), text("hash"));
        }
        for missing in waits_for(status) {
            println!("waiting: {missing}");
        }
    }
}

fn waits_for(status: &Value) -> Vec<String> {
    status["missing"].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(String::from)).collect()
}
