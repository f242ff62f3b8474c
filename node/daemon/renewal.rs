//! The node's certificate and key, renewed while it runs.
//!
//! The state holds each node's public key, and a voter signs for a node whatever key the state holds for it. So a node
//! makes its next key known under the one that it has, and then gets a certificate for it; and one that slept past its
//! certificate's end, whom nobody lets in, still gets a new one for the key it is known by. Voters sign for themselves:
//! a cluster that was switched off for a year comes back. When the cluster's CA changes, the node follows: it trusts whom
//! the state says, and gets a certificate from the CA that signs.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_command::{Action, Write};
use skein_object::{Key, Record};
use skein_peer::Request;
use skein_quic::authority::{Life, certificate_hash, new_key, public_point, request_point, signing_request};
use skein_quic::{Authority, Endpoint, Identity, Subject};
use skein_state::State;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ask::{Refused, ask};
use crate::authorities::{Adoption, Authorities};
use crate::cluster::Endpoints;
use crate::{Error, found, sealing};

/// Public keys of all nodes, by the node's name.
const KEYS: &str = "nodekeys.skein.dev";

const RENEW: &str = "/skein/v1/renew";

/// Clocks jump and machines sleep, so the time is looked at instead of waited for.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who hears of no leader for so long may have slept while its CA was retired.
const LONELY: Duration = Duration::from_secs(10);

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
    /// Whom the node is to trust, for one that slept while that changed.
    #[serde(default)]
    pub(crate) authority: String,
    #[serde(default)]
    pub(crate) cross: String,
}

/// What renews this node's identity, and who hears of it.
pub(crate) struct Renewal {
    pub(crate) name: String,
    pub(crate) cluster: Endpoints,
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: watch::Sender<Identity>,
    /// What this node has made known of itself last.
    pub(crate) published: Option<Record>,
}

// === impl Renewal ===

impl Renewal {
    pub(crate) async fn run(mut self) {
        // Nodes that started together do not all ask in the same second.
        let share = rand::random_range(0.0..1.0);
        let mut heard = Instant::now();
        loop {
            if self.cluster.store.has_quorum() {
                heard = Instant::now();
            }
            if heard.elapsed() >= LONELY {
                heard = Instant::now();
                if let Err(why) = self.get_back().await {
                    debug!(%why, "this node hears of no leader, and nobody gives it another certificate");
                }
            }
            if let Err(why) = self.keep_up(share).await {
                warn!(%why, "the node's certificate or key could not be renewed; trying again");
                tokio::time::sleep(AGAIN).await;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Trusts whom the cluster trusts, goes by a certificate that holds, and is known by its key.
    async fn keep_up(&mut self, share: f64) -> Result<(), Error> {
        let authorities = self.cluster.authorities().await;
        self.adopt(authorities.as_ref())?;
        if !self.cluster.directory.has_admin() {
            self.renew_admin();
        }
        let now = Timestamp::now().as_second();
        let identity = self.identity.borrow().clone();
        let life = identity.life()?;
        // Others may trust new CAs alone before this node does: it cannot ask them for the keys that it needs for that.
        let as_others_see = authorities.map_or_else(|| identity.clone(), |known| known.adopted_by(&identity));
        let is_believed = as_others_see.is_of_trusted_authority()?;
        if !life.holds(now) || now >= due(&life, share) || !identity.is_of_signing_authority()? || !is_believed {
            self.renew(life.holds(now) && is_believed).await
        } else {
            self.make_known().await
        }
    }

    /// Follows the cluster's CAs, once it can open what is sealed under them; a witness opens nothing.
    fn adopt(&self, authorities: Option<&Authorities>) -> Result<(), Error> {
        let opens = |known: &&Authorities| self.cluster.store.is_witness() || sealing::is_up_to_date(&self.cluster.keyring, Some(known));
        let Some(authorities) = authorities.filter(opens) else { return Ok(()) };
        let old = self.identity.borrow().clone();
        let new = authorities.adopted_by(&old);
        if new == old {
            return Ok(());
        }
        info!(phase = ?authorities.phase, "the node trusts other CAs than before");
        self.take(new)
    }

    /// The cluster knows the node by the key that it uses, and what it has adopted.
    async fn make_known(&mut self) -> Result<(), Error> {
        let point = public_point(&self.identity.borrow().key_pem)?;
        self.publish(&[point]).await
    }

    /// `is_valid` says whether anybody believes what the node shows now.
    async fn renew(&mut self, is_valid: bool) -> Result<(), Error> {
        let old = self.identity.borrow().clone();
        let votes = self.cluster.directory.authority()?.is_some();
        if !is_valid && !votes {
            return self.get_back().await;
        }
        let key_pem = new_key()?;
        let request = RenewalRequest { name: self.name.clone(), signing_request: signing_request(&key_pem)? };
        let certificate_pem = if votes {
            self.cluster.sign_member(&request)?
        } else {
            self.publish(&[public_point(&old.key_pem)?, public_point(&key_pem)?]).await?;
            self.ask_voters(&old, &request).await?.certificate
        };
        self.take(Identity { certificate_pem, key_pem, ..old })?;
        info!("the node's certificate has been renewed");
        Ok(())
    }

    /// A node whom nobody lets in, for its certificate has ended or its CA has been retired, is known by its old key only,
    /// and learns whom it is to trust.
    async fn get_back(&self) -> Result<(), Error> {
        let old = self.identity.borrow().clone();
        if self.cluster.addresses(&self.name).is_empty() {
            return Ok(());
        }
        let request = RenewalRequest { name: self.name.clone(), signing_request: signing_request(&old.key_pem)? };
        let RenewalAnswer { certificate, authority, cross } = self.ask_voters(&old, &request).await?;
        let (authority_pem, cross_pem) = if authority.is_empty() { (old.authority_pem, old.cross_pem) } else { (authority, cross) };
        self.take(Identity { certificate_pem: certificate, key_pem: old.key_pem, authority_pem, cross_pem })?;
        info!("the node has been given another certificate for the key that it is known by");
        Ok(())
    }

    fn take(&self, new: Identity) -> Result<(), Error> {
        self.cluster.directory.save_identity(&new)?;
        self.endpoint.set_identity(&new)?;
        self.identity.send_replace(new);
        self.renew_admin();
        Ok(())
    }

    /// The administrator's kubeconfig is one of the CA that signs, where the key for it is.
    fn renew_admin(&self) {
        let renewed = match self.cluster.directory.authority() {
            Ok(Some(authority)) => self.cluster.equip_admin(&authority, &self.name),
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        if let Err(why) = renewed {
            warn!(%why, "the administrator's kubeconfig is not renewed");
        }
    }

    async fn ask_voters(&self, old: &Identity, request: &RenewalRequest) -> Result<RenewalAnswer, Error> {
        let ca = certificate_hash(&old.authority_pem)?;
        let mut last = String::from("no other node is known");
        for address in self.cluster.addresses(&self.name) {
            match ask::<RenewalAnswer>(&address, &ca, RENEW, request).await {
                Ok(answer) => return Ok(answer),
                Err(Refused::Retry(why) | Refused::Final(why)) => last = format!("{address}: {why}"),
            }
        }
        Err(Error::Renew(last))
    }

    /// Writes the node's public keys where those who sign look for them, and how far it has followed the cluster's CAs.
    async fn publish(&mut self, points: &[Vec<u8>]) -> Result<(), Error> {
        let store = &self.cluster.store;
        let encoded: Vec<String> = points.iter().map(|point| STANDARD.encode(point)).collect();
        let adoption = Adoption::of(&self.identity.borrow(), &self.cluster.directory.authority_keys()?)?;
        let place = Key::new(KEYS, "", &self.name);
        let record = Record::from_value(&json!({"metadata": {"name": self.name}, "keys": encoded, "adoption": adoption}));
        let state = store.local().state;
        let is_known = match state.get(&place) {
            Some(entry) => *entry.record == record,
            None => store.is_witness() && self.published.as_ref() == Some(&record),
        };
        if is_known {
            return Ok(());
        }
        let write = Write { expect: None, action: Some(Action::Put(record.clone())), ..Write::create(&place, record.clone()) };
        match store.propose(write.into()).await {
            Ok(_) => {
                self.published = Some(record);
                Ok(())
            }
            // Without a quorum nothing can be said; the next round does.
            Err(why) => {
                debug!(%why, "the node's key is not published yet");
                if points.len() > 1 { Err(Error::Renew(why.to_string())) } else { Ok(()) }
            }
        }
    }
}

/// When to renew: after 70 to 90 % of the life, as the kubelet does.
fn due(life: &Life, share: f64) -> i64 {
    life.begin + ((life.end - life.begin) as f64 * (0.7 + 0.2 * share)).round() as i64
}

/// How far a node has followed the cluster's CAs, as it said last.
pub(crate) fn adoption(state: &State, node: &str) -> Adoption {
    let said = state.get(&Key::new(KEYS, "", node)).and_then(|entry| entry.record.field("adoption"));
    said.and_then(|said| serde_json::from_value(said).ok()).unwrap_or_default()
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
        self.sign_node(&request.name, &self.address_of(&request.name)?, &request.signing_request)
    }

    /// The cluster's CAs as the state holds them; a witness asks the leader for that.
    async fn authorities(&self) -> Option<Authorities> {
        if !self.store.is_witness() {
            return Authorities::of(&self.store.local().state);
        }
        let answer = self.ask_leader(Request::Authorities(true)).await;
        answer.inspect_err(|why| debug!(%why, "the cluster's CAs are not known")).ok().and_then(|json| serde_json::from_value(json).ok())
    }

    fn address_of(&self, node: &str) -> Result<String, Error> {
        let member = self.store.members().into_iter().find(|member| member.member.name == node);
        let member = member.ok_or_else(|| Error::Renew(format!("{node} is no member of the cluster")))?;
        Ok(member.member.address.rsplit_once(':').map_or_else(String::new, |(ip, _)| ip.into()))
    }

    fn equip_admin(&self, authority: &Authority, node: &str) -> Result<(), Error> {
        let address = self.address_of(node)?;
        let address = address.parse().map_err(|_| Error::Renew(format!("{address:?} is no address")))?;
        found::equip_admin(&self.directory, authority, SocketAddr::new(address, self.api_port))
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
