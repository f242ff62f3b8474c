//! `skein token`: with which nodes join.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use crate::client::Access;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a token. It binds to the first node that uses it.
    Create {
        #[command(flatten)]
        access: Access,
        /// For how long the token may be used, in seconds
        #[arg(long, default_value_t = 86400)]
        expiration_seconds: i64,
    },
}

pub(crate) fn run(verb: Verb) -> Result<()> {
    let Verb::Create { access, expiration_seconds } = verb;
    let wish = json!({"expirationSeconds": expiration_seconds});
    let made = crate::block_on(access.ask("POST", "/skein/v1/tokens", Some(&wish)))?;
    println!("{}", made["token"].as_str().unwrap_or_default());
    Ok(())
}
