//! Secrets as this node's Pods need them: opened.

use k8s_openapi::api::core::v1::Secret;
use skein_object::cipher::{self, Keyring};
use skein_object::{Key, registry};
use skein_state::State;

use crate::Error;

/// A Secret; `None` where there is none.
pub(crate) fn secret(state: &State, keyring: &Keyring, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let key = Key::new("secrets", namespace, name);
    let Some(entry) = state.get(&key) else { return Ok(None) };
    if !cipher::is_sealed(&entry.record) {
        return Ok(entry.record.typed(entry.revision));
    }
    let field = registry::by_key("secrets").and_then(|resource| resource.sealed).expect("Secrets are sealed");
    let waiting = || Error::Config(format!("secret \"{name}\" waits for the key of Secrets, which nodes that vote give this node"));
    let opened = keyring.get().ok_or_else(waiting)?.open(&key, field, &entry.record);
    Ok(opened.map_err(|why| Error::Config(why.to_string()))?.typed(entry.revision))
}
