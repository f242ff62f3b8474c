//! What the leader does when the cluster's CA is to have a successor: it makes one, gives its key to those that vote,
//! takes the cluster from phase to phase as nodes follow, seals anew what the former CA's key seals, and ends trust in
//! that one when somebody asks for it.
//!
//! Each step looks at the state alone, so that a new leader goes on where the last one stopped.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::cipher::{Cipher, name_of};
use skein_object::record::Segment;
use skein_object::{Key, Status, registry};
use skein_peer::{Request, Response};
use skein_quic::Authority;
use skein_quic::authority::keys_of;
use skein_state::{Entry, State};
use skein_store::{GRACE_MS, Member};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::authorities::{self, Authorities, Follower, Phase};
use crate::cluster::Endpoints;
use crate::keeper::{KEY_UNUSED, Keys};
use crate::{Error, cluster_keys, renewal, sealing, told};

const INTERVAL: Duration = Duration::from_millis(500);

/// How often what is sealed is looked through, once all is as it should be.
const CLEAN: Duration = Duration::from_secs(10);

/// So many objects are sealed anew in one proposal.
const BATCH: usize = 64;

/// How often a node looks for keys that it does not need any more.
const FORGET: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Step {
    Show,
    Rotate,
    Retire,
}

/// What somebody wants of the CA.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wish {
    step: Step,
}

/// Takes the cluster from phase to phase, while this node leads.
pub(crate) async fn run(cluster: Endpoints) {
    let mut clean = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let leadership = cluster.store.leadership();
        let state = cluster.store.local().state;
        let Some(authorities) = Authorities::of(&state).filter(|_| leadership.is_self) else {
            clean = None;
            continue;
        };
        if let Err(why) = cluster.advance(&state, &authorities, leadership.term, &mut clean).await {
            warn!(%why, phase = ?authorities.phase, "the change of the cluster's CA does not go on yet");
        }
    }
}

/// Removes keys of CAs that nobody trusts, some time after the last thing that they sealed has been sealed anew.
pub(crate) async fn forget(cluster: Endpoints) {
    loop {
        tokio::time::sleep(FORGET).await;
        if let Err(why) = cluster.forget_keys() {
            warn!(%why, "keys of former CAs stay on this node's disk");
        }
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// On the leader.
    pub(crate) async fn lead_authority(&self, wish: &Wish) -> Result<Value, Status> {
        if !self.store.leadership().is_self {
            return Err(Status::timeout("the leader changes at this moment: try again"));
        }
        match wish.step {
            Step::Show => {}
            Step::Rotate => self.rotate().await?,
            Step::Retire => self.retire().await?,
        }
        let (state, authorities) = self.read_authorities().await?;
        let mut shown = authorities.shown();
        shown["missing"] = json!(self.missing(&state, &authorities).map_err(Status::internal)?);
        Ok(shown)
    }

    async fn read_authorities(&self) -> Result<(State, Authorities), Status> {
        let state = self.store.read().await.map_err(|why| Status::timeout(why.to_string()))?.state;
        let founded = || {
            let authority = self.held_authority()?;
            Ok(Authorities::founded(&authority.certificate_pem, &sealing_name(&authority)?))
        };
        let authorities = Authorities::of(&state).map_or_else(founded, Ok)?;
        Ok((state, authorities))
    }

    fn held_authority(&self) -> Result<Authority, Status> {
        let no_key = || Status::timeout("the leader does not hold the CA's key yet: try again");
        self.directory.authority().map_err(Status::internal)?.ok_or_else(no_key)
    }

    /// Gives the CA a successor, whose key every voter holds before the state says so.
    async fn rotate(&self) -> Result<(), Status> {
        let term = self.store.leadership().term;
        let (state, authorities) = self.read_authorities().await?;
        if authorities.phase != Phase::Settled {
            return Err(conflict("the cluster's CA is being changed already; `skein ca status` tells how far that is"));
        }
        let authority = self.held_authority()?;
        let successor = authority.successor("skein").map_err(Status::internal)?;
        let next = Authority::load(&successor.certificate_pem, &successor.key_pem).map_err(Status::internal)?;
        let authority_key = format!("{}\n{}", authority.key_pem.trim_end(), successor.key_pem);
        let keys = Keys { authority_certificate: authority.certificate_pem, authority_key };
        self.directory.save_authority_keys(&keys.authority_key).map_err(Status::internal)?;
        for voter in sealing::other_voters(&self.store) {
            self.give(&voter.member, &keys).await.map_err(|why| {
                let node = &voter.member.name;
                Status::failure(
                    503,
                    "ServiceUnavailable",
                    format!("{node} votes and does not take the new CA's key ({why}): try again when it is well"),
                )
            })?;
        }
        let now = Timestamp::now();
        self.move_on(&state, &authorities.with(&successor, &sealing_name(&next)?, now), term).await.map_err(Status::internal)?;
        self.tell("the cluster's CA is to have a successor, which nodes now trust, too").await;
        Ok(())
    }

    /// Ends trust in the former CA.
    async fn retire(&self) -> Result<(), Status> {
        let term = self.store.leadership().term;
        let (state, authorities) = self.read_authorities().await?;
        let missing = self.missing(&state, &authorities).map_err(Status::internal)?;
        match authorities.phase {
            Phase::Settled => return Err(conflict("no former CA is trusted any more")),
            Phase::Signing if missing.is_empty() => {}
            Phase::Trusted | Phase::Signing => {
                let why = if missing.is_empty() { "the new CA does not sign yet".into() } else { missing.join("; ") };
                return Err(conflict(&format!("the former CA is still needed: {why}")));
            }
        }
        self.move_on(&state, &authorities.in_phase(Phase::Settled, Timestamp::now()), term).await.map_err(Status::internal)?;
        self.tell("the former CA is not trusted any more").await;
        Ok(())
    }

    /// One look at the state, and what follows from it.
    async fn advance(&self, state: &State, authorities: &Authorities, term: u64, clean: &mut Option<Instant>) -> Result<(), Error> {
        self.publish_root(state, authorities).await?;
        if authorities.phase == Phase::Settled {
            return Ok(());
        }
        self.give_missing_keys(state, authorities).await?;
        if authorities.phase == Phase::Trusted {
            if authorities.missing(&self.followers(state))?.is_empty() {
                self.move_on(state, &authorities.in_phase(Phase::Signing, Timestamp::now()), term).await?;
                self.tell("the new CA signs now; what the former one has signed is still believed").await;
            }
            return Ok(());
        }
        if clean.is_none_or(|clean| clean.elapsed() >= CLEAN) {
            let Some(stale) = self.sealed_by_former(state, authorities)? else { return Ok(()) };
            *clean = stale.is_empty().then(Instant::now);
            for batch in stale.chunks(BATCH) {
                // What has changed meanwhile is looked at in the next round.
                self.store.propose_all(batch.iter().cloned().map(Transaction::from).collect()).await?;
            }
        }
        Ok(())
    }

    /// All that the next step waits for, in words.
    fn missing(&self, state: &State, authorities: &Authorities) -> Result<Vec<String>, Error> {
        let mut missing = authorities.missing(&self.followers(state))?;
        if authorities.phase == Phase::Signing {
            match self.sealed_by_former(state, authorities)?.map(|stale| stale.len()) {
                Some(0) => {}
                Some(count) => missing.push(format!("{count} objects are sealed by the former CA's key")),
                None => missing.push("the leader does not seal by the new CA's key yet".into()),
            }
        }
        Ok(missing)
    }

    /// Every node but those that are away: they get back in when they are here again.
    fn followers(&self, state: &State) -> Vec<Follower> {
        let silent_ms = self.reports.silent_ms();
        let members = self.store.members().into_iter();
        let live = members.filter(|member| silent_ms.get(&member.member.name).is_none_or(|silent| *silent < GRACE_MS));
        let follower = |name: String, votes| Follower { adoption: renewal::adoption(state, &name), name, votes };
        live.map(|member| follower(member.member.name.clone(), member.is_full_voter())).collect()
    }

    /// A new phase, if the state is as it was read and nobody else leads meanwhile.
    async fn move_on(&self, state: &State, new: &Authorities, term: u64) -> Result<(), Error> {
        let place = authorities::place();
        let write = match state.get(&place) {
            Some(entry) => Write::update(&place, entry.revision, &entry.record, &new.record()),
            None => Write::create(&place, new.record()),
        };
        let reply = self.store.propose(Transaction { epoch: term, writes: vec![write] }).await?;
        reply.result().map_err(|refusal| Error::Renew(format!("the change of the CA was refused: {:?}", refusal.cause())))?;
        info!(phase = ?new.phase, "the change of the cluster's CA goes on");
        Ok(())
    }

    /// What clients in Pods trust.
    async fn publish_root(&self, state: &State, authorities: &Authorities) -> Result<(), Error> {
        let key = Key::new("configmaps", "kube-system", "kube-root-ca.crt");
        let Some(entry) = state.get(&key) else { return Ok(()) };
        let data = Segment { field: "data".into(), json: json!({"ca.crt": authorities.trusted()}).to_string().into() };
        let new = entry.record.with_changes(&[data]);
        if new != *entry.record {
            self.store.propose(Write::update(&key, entry.revision, &entry.record, &new).into()).await?;
        }
        Ok(())
    }

    /// Who votes and lacks a key gets what this node has.
    async fn give_missing_keys(&self, state: &State, authorities: &Authorities) -> Result<(), Error> {
        let Some(authority) = self.directory.authority()? else { return Ok(()) };
        let newest = authorities.newest_hash()?;
        let keys = Keys { authority_certificate: authority.certificate_pem, authority_key: authority.key_pem };
        for voter in sealing::other_voters(&self.store) {
            let adoption = renewal::adoption(state, &voter.member.name);
            if adoption.trusts.contains(&newest) && !adoption.holds.contains(&newest) {
                // One that cannot be reached is tried again.
                let _ = self.give(&voter.member, &keys).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn give(&self, voter: &Member, keys: &Keys) -> Result<(), String> {
        let message = serde_json::to_vec(keys).expect("keys are plain data");
        match self.store.call(voter, Request::InstallKeys(message.into())).await {
            Ok(Response::Raft(_)) => Ok(()),
            Ok(Response::Failed(why)) => Err(why),
            Ok(_) => Err("an unexpected answer".into()),
            Err(why) => Err(why.to_string()),
        }
    }

    /// What is sealed by another key than that which seals now, sealed anew. `None` until this node seals by the new one.
    fn sealed_by_former(&self, state: &State, authorities: &Authorities) -> Result<Option<Vec<Write>>, Error> {
        let authority = self.directory.authority()?.filter(|_| sealing::is_up_to_date(&self.keyring, Some(authorities)));
        let Some((authority, secrets)) = authority.zip(self.keyring.get()) else { return Ok(None) };
        if sealing_name(&authority).map_err(|why| Error::Renew(why.to_string()))? != authorities.sealing()[0] {
            return Ok(None);
        }
        let of_tokens = Cipher::new(&sealing::derived(&authority, sealing::OF_TOKEN_KEYS)?).expect("an authority has a key");
        let mut sealed: Vec<(&str, &str)> = registry::all().iter().filter_map(|known| Some((known.stored(), known.sealed?))).collect();
        sealed.dedup();
        let objects = sealed.into_iter().flat_map(|(resource, field)| resealed(state, &secrets, resource, field));
        Ok(Some(objects.chain(resealed(state, &of_tokens, skein_api::TOKEN_KEYS, cluster_keys::PRIVATE)).collect()))
    }

    fn forget_keys(&self) -> Result<(), Error> {
        let Some(authority) = self.directory.authority()? else { return Ok(()) };
        let Some(authorities) = Authorities::of(&self.store.local().state) else { return Ok(()) };
        let age = Timestamp::now().as_second() - authorities.since;
        let is_long = |age: Duration| age >= KEY_UNUSED;
        let settled = authorities.phase == Phase::Settled && is_long(Duration::from_secs(age.unsigned_abs()));
        if !settled || !self.directory.authority_age().is_some_and(is_long) {
            return Ok(());
        }
        let needed = keys_of(&authority.key_pem, &authority.certificate_pem)?;
        let is_clean =
            || Ok::<_, Error>(self.sealed_by_former(&self.store.local().state, &authorities)?.is_some_and(|stale| stale.is_empty()));
        if needed != authority.key_pem && is_clean()? {
            self.directory.save_authority_keys(&needed)?;
            info!("the former CA's key is removed from this node's disk");
        }
        Ok(())
    }

    async fn tell(&self, what: &str) {
        let own = self.store.member(self.store.id());
        told::about_node(&self.store, own.as_ref().map_or("", |own| &own.name), "AuthorityChanged", what).await;
    }
}

fn conflict(why: &str) -> Status {
    Status::failure(409, "Conflict", why.to_string())
}

/// How what is sealed names the key that follows from this CA's.
fn sealing_name(authority: &Authority) -> Result<String, Status> {
    let keys = sealing::derived(authority, sealing::OF_SECRETS).map_err(Status::internal)?;
    Ok(keys.first().map(name_of).unwrap_or_default())
}

/// Writes that seal anew what this cipher can open and would seal otherwise now.
fn resealed(state: &State, cipher: &Cipher, resource: &str, field: &str) -> Vec<Write> {
    let prefix = format!("{resource}/");
    let stale = state.range(&prefix, None).filter(|(_, entry)| !cipher.is_current(&entry.record));
    let anew = |(key, entry): (&Key, &Entry)| {
        let opened = cipher.open(key, field, &entry.record);
        let opened = opened.inspect_err(|why| warn!(%why, "left as it is sealed")).ok()?;
        let new = cipher.seal(key, field, opened, None, rand::random());
        Some(Write::update(key, entry.revision, &entry.record, &new))
    };
    stale.filter_map(anew).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skein_command::{Action, Expect};
    use skein_object::Record;

    use super::*;

    #[test]
    fn only_what_the_former_key_sealed_is_sealed_anew() {
        let former = Cipher::new(&[[1; 32]]).expect("a key");
        let both = Cipher::new(&[[2; 32], [1; 32]]).expect("keys");
        let foreign = Cipher::new(&[[3; 32]]).expect("a key");
        let mut state = State::default();
        let plain = |name: &str| Record::from_value(&json!({"metadata": {"name": name}, "data": {"a": "MQ=="}}));
        for (name, cipher) in [("old", &former), ("new", &both), ("lost", &foreign)] {
            let key = Key::new("secrets", "n", name);
            let record = Arc::new(cipher.seal(&key, "data", plain(name), None, [4; 12]));
            state.restore(key, Entry { revision: 7, record });
        }
        state.restore(Key::new("secrets", "n", "plain"), Entry { revision: 7, record: Arc::new(plain("plain")) });
        let writes: Vec<Write> = resealed(&state, &both, "secrets", "data");
        assert_eq!(writes.iter().map(|write| write.key.as_str()).collect::<Vec<_>>(), ["secrets/n/old"]);
        assert_eq!(writes[0].expect, Some(Expect::Revision(7)));
        let Some(Action::Change(changes)) = &writes[0].action else { panic!("it is changed") };
        let old = state.get(&Key::new("secrets", "n", "old")).expect("it is there");
        let new = old.record.with_changes(&changes.segments);
        let alone = Cipher::new(&[[2; 32]]).expect("a key");
        assert_eq!(alone.open(&Key::new("secrets", "n", "old"), "data", &new), Ok(plain("old")));
    }
}
