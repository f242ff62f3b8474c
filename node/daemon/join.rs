//! A new node asks to be let in. It trusts whoever shows the CA that its token names, and nobody else.

use std::time::Duration;

use skein_quic::Identity;
use skein_quic::authority::{certificate_hashes, new_key, signing_request};
use tracing::{info, warn};

use crate::ask::{Refused, ask};
use crate::cluster::{JoinAnswer, JoinRequest};
use crate::directory::{Directory, NodeFile};
use crate::{Error, Options, Token};

/// A cluster without a quorum may get one; a new node waits this long for it.
const ATTEMPTS: u32 = 30;
const JOIN: &str = "/skein/v1/join";
const INTERVAL: Duration = Duration::from_secs(1);

/// Joins, and leaves the identity in the directory. Can be repeated after a crash: the key is kept before it is sent.
pub(crate) async fn join(directory: &Directory, options: &Options, token: &Token) -> Result<NodeFile, Error> {
    let key_pem = match directory.pending_join()? {
        Some(key) => key,
        None => {
            let key = new_key()?;
            directory.save_pending_join(&key)?;
            key
        }
    };
    let request = JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        signing_request: signing_request(&key_pem)?,
        name: options.name.clone(),
        address: options.address,
        peer_port: options.peer_port,
        witness: options.witness.clone(),
    };
    let answer = ask_any(token, &request).await?;
    let shown = certificate_hashes(&format!("{}{}", answer.authority, answer.cross))?;
    if !shown.contains(&token.ca) {
        return Err(Error::Join("the cluster's CA is not the one that the token names".into()));
    }
    if answer.witness != options.witness.is_some() {
        let why = "nodes of this cluster are of a version that knows no witnesses: upgrade them first";
        return Err(Error::Join(why.into()));
    }
    let (authority_pem, cross_pem) = (answer.authority, answer.cross);
    directory.save_identity(&Identity { certificate_pem: answer.certificate, key_pem, authority_pem, cross_pem })?;
    let node = NodeFile {
        format: 1,
        name: options.name.clone(),
        id: answer.id,
        address: options.address,
        founder: false,
        epoch: answer.epoch,
        witness: answer.witness,
    };
    directory.save_node(&node)?;
    Ok(node)
}

async fn ask_any(token: &Token, request: &JoinRequest) -> Result<JoinAnswer, Error> {
    let mut last = String::from("the token names no address");
    for attempt in 0..ATTEMPTS {
        for address in &token.addresses {
            info!(%address, "asking to join");
            match ask(address, &token.ca, JOIN, request).await {
                Ok(answer) => return Ok(answer),
                Err(Refused::Final(why)) => return Err(Error::Join(why)),
                Err(Refused::Retry(why)) => last = format!("{address}: {why}"),
            }
        }
        if attempt + 1 < ATTEMPTS {
            warn!(%last, "not joined yet, trying again");
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Err(Error::Join(last))
}
