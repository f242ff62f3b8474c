//! What the leader does for the membership: give new voters the cluster's keys, then their vote.

use std::time::Duration;

use skein_peer::{Request, Response};
use skein_store::Handle;
use tracing::{info, warn};

use crate::directory::Directory;

const INTERVAL: Duration = Duration::from_millis(500);

/// The keys that every voter holds.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Keys {
    pub(crate) authority_certificate: String,
    pub(crate) authority_key: String,
}

pub(crate) async fn run(store: Handle, directory: Directory) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(change) = store.planned_change() else { continue };
        let Ok(Some(authority)) = directory.authority() else { continue };
        let keys = Keys { authority_certificate: authority.certificate_pem.clone(), authority_key: authority.key_pem.clone() };
        let message = serde_json::to_vec(&keys).expect("keys are plain data");
        let mut given = true;
        for id in &change.promote {
            let Some(member) = store.member(*id) else { continue };
            let answer = store.call(&member, Request::InstallKeys(message.clone().into())).await;
            given &= matches!(answer, Ok(Response::Raft(_)));
        }
        if !given {
            continue;
        }
        match store.change_voters(change.clone()).await {
            Ok(()) => info!(promoted = ?change.promote, "voters changed"),
            Err(why) => warn!(%why, "voters not changed"),
        }
    }
}
