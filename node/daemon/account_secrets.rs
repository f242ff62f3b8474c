//! Secrets of type `kubernetes.io/service-account-token` get what belongs into them, and go with their ServiceAccount
//! (`pkg/controller/serviceaccount/tokens_controller.go`): on the leader, which can sign as every voter can.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use skein_api::LegacyClaims;
use skein_command::Write;
use skein_object::cipher::Cipher;
use skein_object::{Key, Record, meta, registry};
use skein_quic::Identity;
use skein_state::{Entry, State};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cluster::Endpoints;
use crate::kept::Kept;

const SECRETS: &str = "secrets";
const ACCOUNTS: &str = "serviceaccounts";
const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The field of a Secret that is sealed.
const DATA: &str = "data";

/// A pause after the leader has changed or the log refused: then everything is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a Secret lacks.
#[derive(Debug, PartialEq)]
enum Lack {
    Nothing,
    /// Its ServiceAccount is not there, or another one by now.
    Account,
    /// The account, and what is to be written; a token is signed where none is among it.
    Content {
        account: Value,
        data: Value,
        token: bool,
    },
}

pub(crate) async fn run(cluster: Endpoints, mut identity: watch::Receiver<Identity>) {
    let store = &cluster.store;
    let mut secrets = Kept::<Secret>::new(SECRETS, &store.local());
    let mut changes = store.subscribe(&[SECRETS, ACCOUNTS]);
    let mut settled = false;
    loop {
        let leads = store.leadership().is_self;
        settled &= leads;
        secrets.observe(store);
        if let (true, Some(cipher)) = (leads, cluster.keyring.get()) {
            settled = true;
            let authority_pem = identity.borrow_and_update().authority_pem.clone();
            for key in secrets.objects.iter().filter(|(_, secret)| secret.type_.as_deref() == Some(TYPE)).map(|(key, _)| key) {
                if let Err(why) = settle(&cluster, &cipher, key, &authority_pem).await {
                    warn!(%key, %why, "a Secret with a token is left as it is");
                    settled = false;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = identity.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !settled => {}
        }
    }
}

async fn settle(cluster: &Endpoints, cipher: &Cipher, key: &Key, authority_pem: &str) -> Result<(), String> {
    let resource = registry::by_key(SECRETS).expect("the registry has it");
    let state = cluster.store.local().state;
    let Some(Entry { revision, record }) = state.get(key) else { return Ok(()) };
    let opened = cipher.open(key, DATA, record).map_err(|why| why.to_string())?;
    let old = resource.show(&opened, *revision);
    let write = match lack(&state, &old, authority_pem) {
        Lack::Nothing => return Ok(()),
        Lack::Account => {
            info!(%key, "its ServiceAccount is not there: the Secret goes");
            Write::delete(key, *revision)
        }
        Lack::Content { account, mut data, token } => {
            if token {
                let claims = LegacyClaims::new(key.name(), &account);
                let token = cluster.sign_with_cluster_key(&claims, i64::MAX).await.map_err(|why| why.to_string())?;
                data["token"] = STANDARD.encode(token).into();
            }
            let mut new = old.clone();
            new[DATA] = data;
            new["metadata"]["annotations"][UID] = meta::text(&account, "uid").into();
            meta::at_update(&mut new, &old, resource);
            let new: Record = cipher.seal(key, DATA, resource.record(&new), Some(record), rand::random());
            Write::update(key, *revision, record, &new)
        }
    };
    // Whoever changed it meanwhile is seen in the next round.
    cluster.store.propose(write.into()).await.map(drop).map_err(|why| why.to_string())
}

fn lack(state: &State, secret: &Value, authority_pem: &str) -> Lack {
    let annotation = |key: &str| secret["metadata"]["annotations"][key].as_str().unwrap_or_default();
    if !secret["metadata"]["deletionTimestamp"].is_null() {
        return Lack::Nothing;
    }
    let account = state.show(&Key::new(ACCOUNTS, meta::text(secret, "namespace"), annotation(NAME)));
    let account = account.filter(|account| annotation(UID).is_empty() || annotation(UID) == meta::text(account, "uid"));
    let Some(account) = account else { return Lack::Account };
    let has = |field: &str| secret[DATA][field].as_str().is_some_and(|text| !text.is_empty());
    let mut data = if secret[DATA].is_object() { secret[DATA].clone() } else { json!({}) };
    data["ca.crt"] = STANDARD.encode(authority_pem).into();
    if !has("namespace") {
        data["namespace"] = STANDARD.encode(meta::text(secret, "namespace")).into();
    }
    if has("token") && data == secret[DATA] { Lack::Nothing } else { Lack::Content { account, data, token: !has("token") } }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_secret_gets_what_it_lacks_and_goes_with_its_account() {
        let mut state = State::default();
        let account = json!({"metadata": {"name": "robot", "namespace": "n", "uid": "u"}});
        let record = Arc::new(Record::from_value(&account));
        state.restore(Key::new(ACCOUNTS, "n", "robot"), Entry { revision: 1, record });
        let secret = |name: &str, uid: &str, data: Value| json!({"metadata": {"name": "s", "namespace": "n", "annotations": {NAME: name, UID: uid}}, "type": TYPE, "data": data});
        let full = json!({"ca.crt": STANDARD.encode("CA"), "namespace": STANDARD.encode("n"), "token": "dA=="});
        let check = |secret: &Value, expected: &str| {
            let found = match lack(&state, secret, "CA") {
                Lack::Nothing => "nothing",
                Lack::Account => "account",
                Lack::Content { token: true, data, .. } if data["namespace"] == full["namespace"] => "token",
                Lack::Content { .. } => "content",
            };
            assert_eq!(found, expected, "{secret}");
        };
        check(&secret("robot", "u", full.clone()), "nothing");
        check(&secret("robot", "", json!({})), "token");
        check(&secret("robot", "u", json!({"token": "dA=="})), "content");
        check(&secret("robot", "another", full.clone()), "account");
        check(&secret("nobody", "", full.clone()), "account");
        let mut going = secret("nobody", "", full.clone());
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        check(&going, "nothing");
    }
}
