//! The cluster's keys for tokens that no node signs for its own Pods.
//!
//! They lie in the state, sealed by a key that follows from the CA's: whoever votes can open them, and makes the next one
//! when the newest is old. A key stays known for as long as what it has signed holds.
//!
//! ```text
//!   tokenkeys.skein.dev/cluster:ID   {key: {id, x, y}, begin, until, sealed}
//! ```

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use skein_api::{OF_CLUSTER, TOKEN_KEYS, TokenClaims, TokenKey};
use skein_command::Write;
use skein_object::cipher::Cipher;
use skein_object::{Key, Record, Status};
use skein_peer::{Request, Response};
use skein_quic::authority::{new_key, public_point};
use skein_state::{Entry, State};
use tracing::{debug, info};

use crate::authorities::{Authorities, Phase};
use crate::cluster::Endpoints;
use crate::{Error, sealing};

/// So long a key signs: a quarter of a year.
const SIGNS_SECONDS: i64 = 90 * 24 * 3600;

/// How far ahead its end is written down, so that not every token needs a write.
const AHEAD_SECONDS: i64 = 24 * 3600;

/// How often another's write may come first.
const ATTEMPTS: u32 = 8;

/// A node that does not answer by then is passed over.
const PATIENCE: Duration = Duration::from_secs(2);

/// The field that is sealed.
pub(crate) const PRIVATE: &str = "private";

/// A key as the state holds it.
struct Held {
    place: Key,
    revision: u64,
    record: Record,
    begin: i64,
    until: i64,
}

// === impl Held ===

impl Held {
    fn of((place, entry): (&Key, &Entry)) -> Option<Self> {
        let number = |field: &str| entry.record.field(field).as_ref().and_then(Value::as_i64);
        let (begin, until) = (number("begin")?, number("until")?);
        Some(Self { place: place.clone(), revision: entry.revision, record: (*entry.record).clone(), begin, until })
    }

    fn open(&self, cipher: &Cipher) -> Result<TokenKey, Error> {
        let opened = cipher.open(&self.place, PRIVATE, &self.record).map_err(|why| Error::Token(why.to_string()))?;
        let pem = opened.field(PRIVATE).and_then(|pem| pem.as_str().map(String::from)).unwrap_or_default();
        token_key(&pem)
    }

    /// The write after which everybody knows that the key is needed for so long.
    fn needed_until(&self, until: i64) -> Write {
        let segment = skein_object::record::Segment { field: "until".into(), json: json!(until).to_string().into() };
        Write::update(&self.place, self.revision, &self.record, &self.record.with_changes(&[segment]))
    }
}

pub(crate) fn token_key(pem: &str) -> Result<TokenKey, Error> {
    TokenKey::new(pem, &public_point(pem)?).map_err(|why| Error::Token(why.to_string()))
}

/// All keys, the newest first.
fn held(state: &State) -> Vec<Held> {
    let prefix = format!("{}{OF_CLUSTER}", Key::prefix(TOKEN_KEYS, ""));
    let mut held: Vec<Held> = state.range(&prefix, None).filter_map(Held::of).collect();
    held.sort_by_key(|held| std::cmp::Reverse(held.begin));
    held
}

/// A new key, and the write that makes it known.
fn draw(cipher: &Cipher, now: i64) -> Result<Write, Error> {
    let pem = new_key()?;
    let key = token_key(&pem)?;
    let name = format!("{OF_CLUSTER}{}", key.id());
    let place = Key::new(TOKEN_KEYS, "", &name);
    let object = json!({
        "metadata": {"name": name}, "key": key.public(), "begin": now, "until": now + SIGNS_SECONDS + AHEAD_SECONDS, PRIVATE: pem,
    });
    let record = cipher.seal(&place, PRIVATE, Record::from_value(&object), None, rand::random());
    Ok(Write::create(&place, record))
}

// === impl Endpoints ===

impl Endpoints {
    /// Signs with the cluster's key what holds until then; only where the CA's key is.
    pub(crate) async fn sign_with_cluster_key(&self, claims: &impl Serialize, until: i64) -> Result<String, Error> {
        let authority = self.directory.authority()?.ok_or_else(|| Error::Token("this node does not vote".into()))?;
        let cipher = Cipher::new(&sealing::derived(&authority, sealing::OF_TOKEN_KEYS)?).expect("an authority has a key");
        for _ in 0..ATTEMPTS {
            let (state, now) = (self.store.local().state, Timestamp::now().as_second());
            // What the former CA's key could open signs nothing any more once that CA is not trusted.
            let settled = Authorities::of(&state).filter(|authorities| authorities.phase == Phase::Settled);
            let since = settled.map_or(0, |authorities| authorities.since).max(now - SIGNS_SECONDS + 1);
            let mut young = held(&state).into_iter().filter(|held| held.begin >= since);
            let newest = young.find_map(|held| Some((held.open(&cipher).ok()?, held)));
            let write = match newest {
                Some((key, held)) if until <= held.until => return key.sign(claims).map_err(|why| Error::Token(why.to_string())),
                Some((_, held)) => held.needed_until(until.saturating_add(AHEAD_SECONDS)),
                None => {
                    self.forget(&state, now).await;
                    info!("the cluster has a new key for tokens");
                    draw(&cipher, now)?
                }
            };
            // Who came second looks again.
            self.store.propose(write.into()).await?;
        }
        Err(Error::Token("its key is being changed by others all the time".into()))
    }

    /// Removes what nothing that holds was signed with.
    async fn forget(&self, state: &State, now: i64) {
        for old in held(state).into_iter().filter(|held| held.until < now) {
            if let Err(why) = self.store.propose(Write::delete(&old.place, old.revision).into()).await {
                debug!(key = %old.place, %why, "an old key for tokens stays for now");
            }
        }
    }

    /// A token's signature for another node, which has no key: only for what is there.
    pub(crate) async fn sign_for_peer(&self, claims: &TokenClaims) -> Result<String, Status> {
        let view = self.store.read().await.map_err(|why| Status::timeout(why.to_string()))?;
        claims.still_holds(&view.state).map_err(|why| Status::bad_request(why.to_string()))?;
        self.sign_here(claims).await
    }

    pub(crate) async fn sign_here(&self, claims: &TokenClaims) -> Result<String, Status> {
        self.sign_with_cluster_key(claims, claims.expires().as_second()).await.map_err(|why| Status::timeout(why.to_string()))
    }

    pub(crate) async fn ask_voters_to_sign(&self, claims: &TokenClaims) -> Result<String, Status> {
        let message = serde_json::to_vec(claims).unwrap_or_default();
        let mut last = String::from("no node that votes is known");
        for voter in sealing::other_voters(&self.store) {
            let asked = self.store.call(&voter.member, Request::SignToken(message.clone().into()));
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(Response::Raft(json))) => return serde_json::from_slice(&json).map_err(Status::internal),
                Ok(Ok(Response::Failed(json))) => match serde_json::from_str::<Status>(&json) {
                    Ok(status) => return Err(status),
                    Err(_) => last = json,
                },
                Ok(Ok(_)) => last = "an unexpected answer".into(),
                Ok(Err(why)) => last = why.to_string(),
                Err(_) => last = "no answer in time".into(),
            }
            debug!(voter = %voter.member.name, why = %last, "signed no token");
        }
        Err(Status::timeout(format!("no node that votes has signed the token: {last}")))
    }
}
