//! The node's certificate and key, renewed while it runs.
//!
//! The state holds each node's public key, and a voter signs for a node whatever key the state holds for it. So a node
//! makes its next key known under the one that it has, and then gets a certificate for it; and one that slept past its
//! certificate's end, whom nobody lets in, still gets a new one for the key it is known by. Voters sign for themselves:
//! a cluster that was switched off for a year comes back.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_command::{Action, Write};
use skein_object::{Key, Record};
use skein_quic::authority::{Life, certificate_hash, new_key, public_point, request_point, signing_request};
use skein_quic::{Endpoint, Identity, Subject};
use skein_state::State;
use skein_store::Handle;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::ask::{Refused, ask};
use crate::cluster::Endpoints;
use crate::{Error, found};

/// Public keys of all nodes, by the node's name.
const KEYS: &str = "nodekeys.skein.dev";

const RENEW: &str = "/skein/v1/renew";

/// Clocks jump and machines sleep, so the time is looked at instead of waited for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The pause after an attempt that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What a node asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RenewalRequest {
    pub(crate) name: String,
    /// PKCS #10, PEM.
    pub(crate) signing_request: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RenewalAnswer {
    pub(crate) certificate: String,
}

/// What renews this node's identity, and who hears of it.
pub(crate) struct Renewal {
    pub(crate) name: String,
    pub(crate) cluster: Endpoints,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: watch::Sender<Identity>,
}

// === impl Renewal ===

impl Renewal {
    pub(crate) async fn run(self) {
        // Nodes that started together do not all ask in the same second.
        let share = rand::random_range(0.0..1.0);
        loop {
            let now = Timestamp::now().as_second();
            let life = self.identity.borrow().life();
            let is_due = life.as_ref().is_ok_and(|life| now >= due(life, share));
            let done = if is_due { self.renew(life.is_ok_and(|life| now < life.end)).await } else { self.make_known().await };
            if let Err(why) = done {
                warn!(%why, "the node's certificate or key could not be renewed; trying again");
                tokio::time::sleep(AGAIN).await;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The cluster knows the node by the key that it uses.
    async fn make_known(&self) -> Result<(), Error> {
        let point = public_point(&self.identity.borrow().key_pem)?;
        publish(&self.cluster.store, &self.name, &[point]).await
    }

    async fn renew(&self, is_valid: bool) -> Result<(), Error> {
        let old = self.identity.borrow().clone();
        let authority = self.cluster.directory.authority()?;
        // Whose certificate has ended is known by its old key only.
        let key_pem = if is_valid || authority.is_some() { new_key()? } else { old.key_pem.clone() };
        let request = RenewalRequest { name: self.name.clone(), signing_request: signing_request(&key_pem)? };
        let certificate_pem = match authority {
            Some(_) => self.cluster.sign_member(&request)?,
            None => {
                if is_valid {
                    publish(&self.cluster.store, &self.name, &[public_point(&old.key_pem)?, public_point(&key_pem)?]).await?;
                }
                self.ask_voters(&old, &request).await?
            }
        };
        let new = Identity { certificate_pem, key_pem, authority_pem: old.authority_pem };
        self.cluster.directory.save_identity(&new)?;
        self.endpoint.set_identity(&new)?;
        self.identity.send_replace(new);
        info!("the node's certificate has been renewed");
        Ok(())
    }

    async fn ask_voters(&self, old: &Identity, request: &RenewalRequest) -> Result<String, Error> {
        let ca = certificate_hash(&old.authority_pem)?;
        let mut last = String::from("no other node is known");
        for address in self.cluster.addresses(&self.name) {
            match ask::<RenewalAnswer>(&address, &ca, RENEW, request).await {
                Ok(answer) => return Ok(answer.certificate),
                Err(Refused::Retry(why) | Refused::Final(why)) => last = format!("{address}: {why}"),
            }
        }
        Err(Error::Renew(last))
    }
}

/// When to renew: after 70 to 90 % of the life, as the kubelet does.
fn due(life: &Life, share: f64) -> i64 {
    life.begin + ((life.end - life.begin) as f64 * (0.7 + 0.2 * share)).round() as i64
}

/// Writes a node's public keys where those who sign look for them.
async fn publish(store: &Handle, name: &str, points: &[Vec<u8>]) -> Result<(), Error> {
    let encoded: Vec<String> = points.iter().map(|point| STANDARD.encode(point)).collect();
    let place = Key::new(KEYS, "", name);
    let record = Record::from_value(&json!({"metadata": {"name": name}, "keys": encoded}));
    if store.local().state.get(&place).is_some_and(|entry| *entry.record == record) {
        return Ok(());
    }
    let write = Write { expect: None, action: Some(Action::Put(record.clone())), ..Write::create(&place, record) };
    match store.propose(write.into()).await {
        Ok(_) => Ok(()),
        // Without a quorum nothing can be said; the next round does.
        Err(why) => {
            debug!(%why, "the node's key is not published yet");
            if points.len() > 1 { Err(Error::Renew(why.to_string())) } else { Ok(()) }
        }
    }
}

/// Whether the state holds this request's key for the node.
pub(crate) fn is_known(state: &State, request: &RenewalRequest) -> bool {
    let Ok(point) = request_point(&request.signing_request) else { return false };
    let known = state.get(&Key::new(KEYS, "", &request.name)).and_then(|entry| entry.record.field("keys"));
    let known = known.as_ref().and_then(Value::as_array);
    known.is_some_and(|keys| keys.iter().any(|key| *key == STANDARD.encode(&point)))
}

// === impl Endpoints ===

impl Endpoints {
    /// Another certificate for a member of the cluster, at the address by which it is known.
    pub(crate) fn sign_member(&self, request: &RenewalRequest) -> Result<String, Error> {
        let member = self.store.members().into_iter().find(|member| member.member.name == request.name);
        let member = member.ok_or_else(|| Error::Renew(format!("{} is no member of the cluster", request.name)))?;
        let address = member.member.address.rsplit_once(':').map_or("", |(ip, _)| ip);
        self.sign_node(&request.name, address, &request.signing_request)
    }

    pub(crate) fn sign_node(&self, name: &str, address: &str, request_pem: &str) -> Result<String, Error> {
        let authority = self.directory.authority()?.ok_or_else(|| Error::Renew("this node cannot sign: it does not vote".into()))?;
        Ok(authority.sign_node(request_pem, &Subject::node(name), &found::names(name, address), self.lifetime)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_in_the_last_third_of_their_life() {
        let life = Life { begin: 1000, end: 2000 };
        assert_eq!((due(&life, 0.0), due(&life, 1.0)), (1700, 1900));
    }

    #[test]
    fn only_the_key_that_is_known_is_signed() {
        let known = new_key().expect("a key");
        let mut state = State::default();
        let point = STANDARD.encode(public_point(&known).expect("a point"));
        let record = Record::from_value(&json!({"metadata": {"name": "a"}, "keys": [point]}));
        state.restore(Key::new(KEYS, "", "a"), skein_state::Entry { revision: 1, record: std::sync::Arc::new(record) });
        let check = |name: &str, key: &str, expected: bool| {
            let request = RenewalRequest { name: name.into(), signing_request: signing_request(key).expect("a request") };
            assert_eq!(is_known(&state, &request), expected, "{name}");
        };
        check("a", &known, true);
        check("b", &known, false);
        check("a", &new_key().expect("a key"), false);
    }
}
