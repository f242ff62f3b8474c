//! The keys of what is sealed in the state: derived from the CA's where that is, on nodes that vote. The others ask one of
//! those, and keep it in memory only: no disk but a voter's has what opens a Secret.

use std::sync::OnceLock;
use std::time::Duration;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use skein_object::cipher::Cipher;
use skein_peer::{Request, Response};
use skein_quic::Authority;
use skein_store::{Handle, MemberStatus};
use tracing::debug;

use crate::Error;
use crate::directory::Directory;

/// What every node opens for its API: Secrets.
pub(crate) const OF_SECRETS: &[u8] = b"skein: what is sealed in the state, 1";

/// What only voters open: the cluster's keys for tokens.
pub(crate) const OF_TOKEN_KEYS: &[u8] = b"skein: the cluster's token keys, 1";

/// A node that does not answer by then is passed over.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pause when no node that votes has answered.
const AGAIN: Duration = Duration::from_millis(500);

/// The key for this purpose that follows from the CA's (HKDF, RFC 5869).
pub(crate) fn derived(authority: &Authority, purpose: &[u8]) -> [u8; 32] {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = [0; 32];
    let from = Salt::new(HKDF_SHA256, &[]).extract(&authority.key_der());
    let derived = from.expand(&[purpose], Length).and_then(|out| out.fill(&mut key));
    derived.expect("32 bytes can be derived from one hash");
    key
}

/// The key of Secrets as this node has it on its own disk.
pub(crate) fn own(directory: &Directory) -> Result<Option<[u8; 32]>, Error> {
    Ok(directory.authority()?.map(|authority| derived(&authority, OF_SECRETS)))
}

/// The other nodes that vote: they have the CA's key.
pub(crate) fn other_voters(store: &Handle) -> impl Iterator<Item = MemberStatus> + use<> {
    let own = store.id();
    store.members().into_iter().filter(move |member| member.id != own && member.role.votes())
}

/// Asks those that vote until one has given the key.
pub(crate) async fn ask(store: &Handle, cipher: &OnceLock<Cipher>) {
    while cipher.get().is_none() {
        for voter in other_voters(store) {
            let answer = tokio::time::timeout(PATIENCE, store.call(&voter.member, Request::SealingKey(true))).await;
            match answer {
                Ok(Ok(Response::Raft(bytes))) => match <[u8; 32]>::try_from(bytes.as_ref()) {
                    Ok(key) => {
                        let _ = cipher.set(Cipher::new(&key));
                        return;
                    }
                    Err(_) => debug!(voter = %voter.member.name, "what it gave is no key"),
                },
                other => debug!(voter = %voter.member.name, ?other, "gave no key of Secrets"),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_voter_derives_the_same_key() {
        let authority = Authority::create("skein").expect("an authority");
        let installed = Authority::load(&authority.certificate_pem, &authority.key_pem).expect("as a new voter loads it");
        let of = |authority: &Authority| derived(authority, OF_SECRETS);
        assert_eq!(of(&authority), of(&installed));
        assert_ne!(of(&authority), of(&Authority::create("skein").expect("another")));
        assert_ne!(of(&authority), derived(&authority, OF_TOKEN_KEYS));
    }
}
