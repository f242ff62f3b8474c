//! A namespace that is being deleted takes its content with it, and goes when nothing is left.

use skein_command::{Transaction, Write};
use skein_object::deletion::Wish;
use skein_object::{Key, registry};

use crate::Mint;
use crate::snapshot::{Snapshot, ties};
use crate::write::delete;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(namespace) = snapshot.state.get(key) else { return Vec::new() };
    if ties(&namespace.record).deletion_timestamp.is_none() {
        return Vec::new();
    }
    let mut left = false;
    let mut transactions = Vec::new();
    let custom = snapshot.custom_resources().filter(|r| r.namespaced);
    for resource in registry::all().iter().filter(|r| r.namespaced && r.is_stored()).chain(custom) {
        let prefix = Key::prefix(resource.stored(), key.name());
        for (key, entry) in snapshot.state.range(&prefix, None) {
            left = true;
            transactions.extend(delete(resource, key, entry, &Wish::default(), mint));
        }
    }
    if !left {
        transactions.push(Write::delete(key, namespace.revision).into());
    }
    transactions
}
