//! What a Service has claimed (its ClusterIP, its node ports) is free when the Service is gone, however it went: with its
//! namespace, with its owner, or with its last finalizer. Whoever deletes one through the API frees it at once.

use skein_command::{Transaction, Write};
use skein_object::{Key, claim};
use skein_state::{Entry, Event};

use crate::snapshot::Snapshot;

/// The claims of a Service that is gone.
pub(crate) fn of_service(event: &Event) -> Vec<Key> {
    if event.after.is_some() { Vec::new() } else { event.before.as_ref().map(claims).unwrap_or_default() }
}

fn claims(service: &Entry) -> Vec<Key> {
    service.record.field("spec").map(|spec| claim::of_service(&spec)).unwrap_or_default()
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key) -> Option<Transaction> {
    let held = snapshot.state.get(key)?;
    let holder = held.record.field("service")?;
    let (namespace, name) = holder.as_str()?.split_once('/')?;
    let service = snapshot.state.get(&Key::new("services", namespace, name));
    let is_claimed = service.is_some_and(|service| claims(service).contains(key));
    (!is_claimed).then(|| Write::delete(key, held.revision).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use skein_object::Record;
    use skein_state::State;

    use super::*;

    /// Whether a node port that is held for d/w is freed, with this Service.
    fn check(service: Option<Value>, expected: bool) {
        let mut state = State::default();
        let key = claim::node_port("TCP", 30080);
        let held = json!({"metadata": {"name": "tcp-30080"}, "service": "d/w"});
        let service = service.map(|spec| (Key::new("services", "d", "w"), json!({"metadata": {"name": "w"}, "spec": spec})));
        for (revision, (key, object)) in (1..).zip([(key.clone(), held)].into_iter().chain(service)) {
            state.restore(key, Entry { revision, record: Arc::new(Record::from_value(&object)) });
        }
        let expected: Option<Transaction> = expected.then(|| Write::delete(&key, 1).into());
        assert_eq!(reconcile(&Snapshot::of(&state), &key), expected);
    }

    #[test]
    fn what_nobody_claims_is_freed() {
        check(None, true);
        check(Some(json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]})), false);
        check(Some(json!({"ports": [{"port": 80, "protocol": "UDP", "nodePort": 30080}]})), true);
    }
}
