//! The node's key for tokens: made known to the cluster, and used by the kubelet for its Pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use skein_api::{Bound, TokenClaims, TokenKey};
use skein_command::{Action, Write};
use skein_kubelet::{PodIdentity, Tokens};
use skein_store::Handle;
use tracing::debug;

/// A pause between attempts while there is no quorum.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Issuer(pub(crate) Arc<TokenKey>);

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer")
    }
}

impl Tokens for Issuer {
    fn issue(&self, account: &Value, audience: &str, pod: PodIdentity<'_>, seconds: i64) -> Result<(String, Timestamp), String> {
        let audience: Vec<String> = Some(audience).filter(|a| !a.is_empty()).map(String::from).into_iter().collect();
        let node = Some((pod.node.into(), pod.node_uid.into()));
        let bound = Bound { kind: "Pod".into(), name: pod.name.into(), uid: pod.uid.into(), node };
        let claims = TokenClaims::new(account, &audience, Some(&bound), seconds);
        Ok((self.0.sign(&claims).map_err(|e| e.to_string())?, claims.expires()))
    }
}

/// Writes the public half where every node looks for it, as soon as there is a quorum.
pub(crate) async fn publish(store: Handle, node: String, key: Arc<TokenKey>) {
    let (place, record) = key.publication(&node);
    loop {
        let known = store.local().state.get(&place).is_some_and(|entry| *entry.record == record);
        if known {
            return;
        }
        let write = Write { expect: None, action: Some(Action::Put(record.clone())), ..Write::create(&place, record.clone()) };
        if let Err(why) = store.propose(write.into()).await {
            debug!(%why, "the token key is not published yet");
        }
        tokio::time::sleep(AGAIN).await;
    }
}
