//! The keys of what is sealed in the state: derived from the CA's where that is, on nodes that vote. The others ask one of
//! those, and keep it in memory only: no disk but a voter's has what opens a Secret.

use std::time::Duration;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use skein_object::cipher::{Cipher, Keyring, name_of};
use skein_peer::{Request, Response};
use skein_quic::Authority;
use skein_store::{Handle, MemberStatus};
use tracing::debug;

use crate::Error;
use crate::authorities::{self, Authorities};
use crate::directory::Directory;

/// What every node opens for its API: Secrets.
pub(crate) const OF_SECRETS: &[u8] = b"skein: what is sealed in the state, 1";

/// What only voters open: the cluster's keys for tokens.
pub(crate) const OF_TOKEN_KEYS: &[u8] = b"skein: the cluster's token keys, 1";

/// A node that does not answer by then is passed over.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pause when no node that votes has answered.
const AGAIN: Duration = Duration::from_millis(500);

/// The key for this purpose that follows from a CA's (HKDF, RFC 5869).
pub(crate) fn derive(authority_key: &[u8], purpose: &[u8]) -> [u8; 32] {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = [0; 32];
    let from = Salt::new(HKDF_SHA256, &[]).extract(authority_key);
    let derived = from.expand(&[purpose], Length).and_then(|out| out.fill(&mut key));
    derived.expect("32 bytes can be derived from one hash");
    key
}

/// What follows from each key that is held; that of the CA which signs comes first, and seals.
pub(crate) fn derived(authority: &Authority, purpose: &[u8]) -> Result<Vec<[u8; 32]>, Error> {
    Ok(authority.key_ders()?.iter().map(|key| derive(key, purpose)).collect())
}

/// The keys of Secrets as this node has them on its own disk.
pub(crate) fn own(directory: &Directory) -> Result<Option<Vec<[u8; 32]>>, Error> {
    directory.authority()?.map(|authority| derived(&authority, OF_SECRETS)).transpose()
}

/// The other nodes that vote and keep the state: they have the CA's key.
pub(crate) fn other_voters(store: &Handle) -> impl Iterator<Item = MemberStatus> + use<> {
    let own = store.id();
    store.members().into_iter().filter(move |member| member.id != own && member.is_full_voter())
}

/// Whether the node seals, and opens, as the state of the cluster's CAs wants it.
pub(crate) fn is_up_to_date(keyring: &Keyring, authorities: Option<&Authorities>) -> bool {
    let Some(cipher) = keyring.get() else { return false };
    let wanted = authorities.map(Authorities::sealing).unwrap_or_default();
    let has = |name: &&&str| cipher.names().any(|own| own == **name);
    wanted.first().is_none_or(|first| cipher.names().next() == Some(first)) && wanted.iter().all(|name| has(&name))
}

/// Keeps the keys that are needed, for as long as the node runs.
pub(crate) async fn keep(store: Handle, directory: Directory, keyring: Keyring) {
    let mut changes = store.subscribe(&[authorities::place().resource()]);
    loop {
        let authorities = Authorities::of(&store.local().state);
        let mut known = is_up_to_date(&keyring, authorities.as_ref());
        if !known {
            let wanted = authorities.as_ref().map(Authorities::sealing).unwrap_or_default();
            let own = own(&directory).ok().flatten().and_then(|keys| arranged(keys, &wanted));
            let found = if own.is_some() { own } else { ask(&store, &wanted).await };
            if let Some(cipher) = found.and_then(|keys| Cipher::new(&keys)) {
                keyring.set(cipher);
                known = true;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !known => {}
        }
    }
}

/// The keys with these names first, in their order; `None` where one of them is not there.
fn arranged(mut keys: Vec<[u8; 32]>, wanted: &[&str]) -> Option<Vec<[u8; 32]>> {
    let place = |key: &[u8; 32]| wanted.iter().position(|name| *name == name_of(key));
    keys.sort_by_key(|key| place(key).unwrap_or(usize::MAX));
    let is_whole = keys.len() >= wanted.len() && wanted.iter().zip(&keys).all(|(name, key)| *name == name_of(key));
    is_whole.then_some(keys)
}

/// Asks those that vote until one has given these keys.
async fn ask(store: &Handle, wanted: &[&str]) -> Option<Vec<[u8; 32]>> {
    for voter in other_voters(store) {
        match tokio::time::timeout(PATIENCE, store.call(&voter.member, Request::SealingKey(true))).await {
            Ok(Ok(Response::Raft(bytes))) => {
                let keys = bytes.chunks_exact(32).map(|key| key.try_into().expect("a chunk has 32 bytes")).collect();
                match arranged(keys, wanted) {
                    Some(keys) if !keys.is_empty() => return Some(keys),
                    _ => debug!(voter = %voter.member.name, "it lacks a key of Secrets"),
                }
            }
            other => debug!(voter = %voter.member.name, ?other, "gave no key of Secrets"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_voter_derives_the_same_key() {
        let authority = Authority::create("skein").expect("an authority");
        let installed = Authority::load(&authority.certificate_pem, &authority.key_pem).expect("as a new voter loads it");
        let of = |authority: &Authority, purpose: &[u8]| derived(authority, purpose).expect("it has a key");
        assert_eq!(of(&authority, OF_SECRETS), of(&installed, OF_SECRETS));
        assert_ne!(of(&authority, OF_SECRETS), of(&Authority::create("skein").expect("another"), OF_SECRETS));
        assert_ne!(of(&authority, OF_SECRETS), of(&authority, OF_TOKEN_KEYS));
    }

    #[test]
    fn keys_are_used_in_the_order_of_their_authorities() {
        let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
        let names = [a, b].map(|key| name_of(&key));
        let check = |keys: &[[u8; 32]], wanted: &[&String], expected: Option<&[[u8; 32]]>| {
            let wanted: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
            assert_eq!(arranged(keys.to_vec(), &wanted).as_deref(), expected);
        };
        check(&[a, b, c], &[&names[1], &names[0]], Some(&[b, a, c]));
        check(&[c, a], &[&names[0]], Some(&[a, c]));
        check(&[c, a], &[&names[0], &names[1]], None);
        check(&[c, a], &[], Some(&[c, a]));
    }
}
