//! The cluster's CAs as the state holds them, once one has taken another's place or is about to: who is trusted, who
//! signs, and what the next step waits for. Pure.
//!
//! ```text
//!   authorities.skein.dev/cluster   {phase, since, lineage: [{certificate, cross, sealing}, …]}, the newest first
//!
//!            trusted         signs    what comes next, and when
//!   Trusted  former and new  former   Signing: every live node trusts the new one, every live voter has its key
//!   Signing  new and former  new      Settled: when somebody asks for it, every live node has a certificate of the new
//!                                     one, and nothing is sealed by a key that follows from the former one's
//!   Settled  new             new      Trusted: when somebody asks for it
//! ```
//!
//! A CA's certificate by its predecessor (`cross`) is shown for ever: who slept through a change, or has a kubeconfig from
//! before it, still knows the cluster's nodes by it. What the former CA has signed is believed by nobody any more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_object::{Key, Record};
use skein_quic::Identity;
use skein_quic::authority::{Successor, certificate_hash, certificate_hashes, hashes_with_keys, name_and_end};
use skein_state::State;

use crate::Error;

/// A node that slept through more changes than this has to join anew.
const LINEAGE_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    Trusted,
    Signing,
    Settled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authorities {
    pub(crate) phase: Phase,
    /// When that began, in seconds of Unix time.
    pub(crate) since: i64,
    /// The newest first.
    lineage: Vec<Generation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Generation {
    certificate: String,
    /// The same CA, certified by the one before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    cross: String,
    /// The name of the key of Secrets that follows from this CA's.
    sealing: String,
}

/// How far a node has followed, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adoption {
    /// The hashes of the CAs that it trusts.
    #[serde(default)]
    pub(crate) trusts: Vec<String>,
    /// That of the CA whose certificate it shows.
    #[serde(default)]
    pub(crate) certified: String,
    /// Those of the CAs whose keys it holds.
    #[serde(default)]
    pub(crate) holds: Vec<String>,
}

/// A live node.
pub(crate) struct Follower {
    pub(crate) name: String,
    pub(crate) votes: bool,
    pub(crate) adoption: Adoption,
}

pub(crate) fn place() -> Key {
    Key::new("authorities.skein.dev", "", "cluster")
}

// === impl Authorities ===

impl Authorities {
    /// `None` as long as the CA that the cluster was founded with is the only one that there ever was.
    pub(crate) fn of(state: &State) -> Option<Self> {
        serde_json::from_value(state.get(&place())?.record.field("authorities")?).ok()
    }

    /// What a cluster begins with; `sealing` names the key that follows from its CA's.
    pub(crate) fn founded(certificate: &str, sealing: &str) -> Self {
        let first = Generation { certificate: certificate.into(), cross: String::new(), sealing: sealing.into() };
        Self { phase: Phase::Settled, since: 0, lineage: vec![first] }
    }

    pub(crate) fn record(&self) -> Record {
        Record::from_value(&json!({"metadata": {"name": place().name()}, "authorities": self}))
    }

    /// With a CA that is to be trusted, and to sign later.
    pub(crate) fn with(&self, successor: &Successor, sealing: &str, now: Timestamp) -> Self {
        let (certificate, cross) = (successor.certificate_pem.clone(), successor.cross_pem.clone());
        let new = Generation { certificate, cross, sealing: sealing.into() };
        let lineage = std::iter::once(new).chain(self.lineage.iter().cloned()).take(LINEAGE_MAX).collect();
        Self { phase: Phase::Trusted, since: now.as_second(), lineage }
    }

    pub(crate) fn in_phase(&self, phase: Phase, now: Timestamp) -> Self {
        Self { phase, since: now.as_second(), ..self.clone() }
    }

    /// The newest first; that which signs is another only before it signs.
    fn trusted_generations(&self) -> &[Generation] {
        &self.lineage[..if self.phase == Phase::Settled { 1 } else { self.lineage.len().min(2) }]
    }

    /// That which signs first.
    fn in_order(&self) -> Vec<&Generation> {
        let mut trusted: Vec<&Generation> = self.trusted_generations().iter().collect();
        if self.phase == Phase::Trusted {
            trusted.reverse();
        }
        trusted
    }

    /// The certificates of the CAs that are trusted; the first one signs.
    pub(crate) fn trusted(&self) -> String {
        self.in_order().into_iter().map(|generation| generation.certificate.as_str()).collect()
    }

    /// What leads to these from the CAs before them, as OpenSSL wants it: each behind what it has signed.
    pub(crate) fn cross(&self) -> String {
        let trusted = self.trusted_generations().len();
        let mut chain = String::new();
        for (at, generation) in self.lineage.iter().enumerate() {
            if at >= trusted {
                chain.push_str(&generation.certificate);
            }
            chain.push_str(&generation.cross);
        }
        chain
    }

    /// The names of the keys that open what is sealed; the first one seals.
    pub(crate) fn sealing(&self) -> Vec<&str> {
        self.in_order().into_iter().map(|generation| generation.sealing.as_str()).collect()
    }

    pub(crate) fn newest_hash(&self) -> Result<String, Error> {
        Ok(certificate_hash(&self.lineage[0].certificate)?)
    }

    /// An identity that trusts, and shows, what is to be trusted and shown now.
    pub(crate) fn adopted_by(&self, identity: &Identity) -> Identity {
        Identity { authority_pem: self.trusted(), cross_pem: self.cross(), ..identity.clone() }
    }

    /// What the next step waits for, in words; nothing where it can be made.
    pub(crate) fn missing(&self, followers: &[Follower]) -> Result<Vec<String>, Error> {
        let newest = self.newest_hash()?;
        let lacks = |follower: &Follower| {
            let Follower { name, votes, adoption } = follower;
            match self.phase {
                Phase::Trusted if !adoption.trusts.contains(&newest) => Some(format!("{name} does not trust the new CA yet")),
                Phase::Trusted | Phase::Signing if *votes && !adoption.holds.contains(&newest) => {
                    Some(format!("{name} votes and does not hold the new CA's key yet"))
                }
                Phase::Signing if adoption.certified != newest => Some(format!("{name} has no certificate of the new CA yet")),
                _ => None,
            }
        };
        Ok(followers.iter().filter_map(lacks).collect())
    }

    /// As people and their programs want to see it.
    pub(crate) fn shown(&self) -> Value {
        let trusted = self.trusted_generations().len();
        let signing = &self.in_order()[0].certificate;
        let shown = self.lineage.iter().enumerate().map(|(at, generation)| {
            let (name, end) = name_and_end(&generation.certificate).unwrap_or_default();
            let end = Timestamp::from_second(end).map(|end| end.to_string()).unwrap_or_default();
            let hash = certificate_hash(&generation.certificate).unwrap_or_default();
            json!({"name": name, "hash": hash, "notAfter": end, "trusted": at < trusted, "signs": generation.certificate == *signing})
        });
        json!({"phase": self.phase, "authorities": shown.collect::<Vec<_>>()})
    }
}

// === impl Adoption ===

impl Adoption {
    /// What a node has adopted that goes by this identity and holds these keys.
    pub(crate) fn of(identity: &Identity, held_pem: &str) -> Result<Self, Error> {
        let trusts = certificate_hashes(&identity.authority_pem)?;
        let certified = if identity.is_of_signing_authority()? { trusts.first().cloned().unwrap_or_default() } else { String::new() };
        Ok(Self { trusts, certified, holds: hashes_with_keys(&identity.authority_pem, held_pem)? })
    }
}

#[cfg(test)]
mod tests {
    use skein_quic::Authority;

    use super::*;

    fn follower(name: &str, votes: bool, trusts: &[&str], certified: &str, holds: &[&str]) -> Follower {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_string()).collect();
        Follower {
            name: name.into(),
            votes,
            adoption: Adoption { trusts: texts(trusts), certified: certified.into(), holds: texts(holds) },
        }
    }

    #[test]
    fn trust_widens_before_the_new_authority_signs_and_narrows_after() {
        let first = Authority::create("skein").expect("a CA");
        let next = first.successor("skein").expect("a successor");
        let founded = Authorities::founded(&first.certificate_pem, "a");
        let (former, new, cross) = (&first.certificate_pem, &next.certificate_pem, &next.cross_pem);
        let now = Timestamp::UNIX_EPOCH;
        let check = |authorities: &Authorities, trusted: &[&String], chain: &[&String], sealing: &[&str]| {
            let joined = |parts: &[&String]| parts.iter().map(|part| part.as_str()).collect::<String>();
            assert_eq!(authorities.trusted(), joined(trusted));
            assert_eq!(authorities.cross(), joined(chain));
            assert_eq!(authorities.sealing(), sealing);
        };
        check(&founded, &[former], &[], &["a"]);
        let trusted = founded.with(&next, "b", now);
        check(&trusted, &[former, new], &[cross], &["a", "b"]);
        let signing = trusted.in_phase(Phase::Signing, now);
        check(&signing, &[new, former], &[cross], &["b", "a"]);
        let settled = signing.in_phase(Phase::Settled, now);
        check(&settled, &[new], &[cross, former], &["b"]);
        let mut state = State::default();
        state.restore(place(), skein_state::Entry { revision: 1, record: std::sync::Arc::new(settled.record()) });
        assert_eq!(Authorities::of(&state).as_ref(), Some(&settled));
        let many = (0..9).fold(settled, |authorities, _| authorities.with(&next, "c", now).in_phase(Phase::Settled, now));
        assert_eq!(many.lineage.len(), LINEAGE_MAX);
    }

    #[test]
    fn a_step_waits_for_every_node_that_lives() {
        let first = Authority::create("skein").expect("a CA");
        let next = first.successor("skein").expect("a successor");
        let new = certificate_hash(&next.certificate_pem).expect("a hash");
        let trusted = Authorities::founded(&first.certificate_pem, "a").with(&next, "b", Timestamp::UNIX_EPOCH);
        let check = |authorities: &Authorities, followers: &[Follower], expected: &[&str]| {
            assert_eq!(authorities.missing(followers).expect("certificates"), expected);
        };
        let old = follower("a", true, &["former"], "former", &["former"]);
        let trusts = follower("b", true, &["former", &new], "former", &["former"]);
        let holds = follower("c", true, &["former", &new], "former", &[&new]);
        let replica = follower("d", false, &["former", &new], "former", &[]);
        let all = [old, trusts, holds, replica];
        check(&trusted, &all, &["a does not trust the new CA yet", "b votes and does not hold the new CA's key yet"]);
        check(&trusted, &all[2..], &[]);
        let signing = trusted.in_phase(Phase::Signing, Timestamp::UNIX_EPOCH);
        check(&signing, &all[2..], &["c has no certificate of the new CA yet", "d has no certificate of the new CA yet"]);
        let done = [follower("c", true, &[&new], &new, &[&new]), follower("d", false, &[&new], &new, &[])];
        check(&signing, &done, &[]);
    }
}
