//! Tokens that Secrets of type `kubernetes.io/service-account-token` hold (`pkg/serviceaccount/legacy.go`): they name no
//! audience and never end, but for the Secret or the ServiceAccount.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skein_object::{Key, meta};
use skein_state::State;

use super::secret;
use super::tokens::{Claims, Error, OF_CLUSTER, Reference, decode, subject};
use crate::Context;

pub(super) const ISSUER: &str = "kubernetes/serviceaccount";

/// Whoever has cleaned up set it on a Secret whose token nobody is to use any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What a Secret's token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

// === impl LegacyClaims ===

impl LegacyClaims {
    pub fn new(secret: &str, account: &Value) -> Self {
        let [namespace, account, uid] = ["namespace", "name", "uid"].map(|field| meta::text(account, field).to_string());
        let sub = subject(&namespace, &account);
        Self { iss: ISSUER.into(), namespace, secret: secret.into(), account, uid, sub }
    }
}

/// What a Secret's token stands for, if it is still that of its Secret.
pub(super) fn verify(context: &Context, state: &State, token: &str) -> Result<Claims, Error> {
    let (key, _, said): (Key, String, LegacyClaims) = decode(state, token)?;
    if !key.name().starts_with(OF_CLUSTER) {
        return Err(Error::ForeignNode(key.name().into()));
    }
    let place = Key::new("secrets", &said.namespace, &said.secret);
    let kept = secret(context, &place).ok_or_else(|| Error::Gone(place.to_string()))?;
    let is_going = !kept["metadata"]["deletionTimestamp"].is_null() || !kept["metadata"]["labels"][INVALID_SINCE].is_null();
    let own = kept["data"]["token"].as_str().and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default();
    // Of digests the time of a comparison tells nothing.
    if is_going || digest(&SHA256, &own).as_ref() != digest(&SHA256, token.as_bytes()).as_ref() {
        return Err(Error::Replaced);
    }
    Ok(Claims::of_legacy(&said.namespace, Reference { name: said.account, uid: said.uid }))
}
