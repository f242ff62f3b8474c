//! The replicated state alone: how much memory an object takes, by many that are small.

use std::hint::black_box;

use prost::Message;
use serde_json::{Value, json};
use skein_command::{Command, LEVEL, ProposalId, Transaction, Write};
use skein_object::{Key, Record};
use skein_state::{Position, State, apply};

use crate::daemons::resident_kib;

const OBJECTS: u64 = 1_000_000;
/// Commands of clients that write at once hold several objects.
const TOGETHER: u64 = 16;

/// What so many objects of a kind came to.
pub(crate) struct Taken {
    /// As JSON, on average.
    pub(crate) json_bytes: f64,
    pub(crate) memory_bytes: f64,
    /// Applied on one core.
    pub(crate) per_second: f64,
}

/// ConfigMaps of one value, as `kubectl create` makes them.
pub(crate) fn small_objects() -> Taken {
    let own = i64::from(std::process::id().cast_signed());
    let before = resident_kib(own);
    let begin = std::time::Instant::now();
    let mut state = State::default();
    let mut json_bytes = 0;
    for index in 0..OBJECTS / TOGETHER {
        let writes = (0..TOGETHER).map(|at| object(index * TOGETHER + at));
        let transactions = writes.map(|(key, object)| {
            json_bytes += object.to_string().len();
            // The namespaces are not there, nor missed.
            let write = Write { in_active_namespace: false, ..Write::create(&key, Record::from_value(&object)) };
            Transaction { epoch: 0, writes: vec![write] }
        });
        let id = ProposalId { incarnation: 1, sequence: index };
        let command = Command { level: LEVEL, id: Some(id), transactions: transactions.collect() };
        // As it comes from the log: all of a command's objects lie in its bytes.
        let command = Command::decode(bytes::Bytes::from(command.encode_to_vec())).expect("it was encoded just now");
        state = apply(&state, &command, Position { term: 1, index }).0;
    }
    let took = begin.elapsed();
    let memory = resident_kib(own).saturating_sub(before) << 10;
    assert_eq!(black_box(&state).len() as u64, OBJECTS, "every object is there");
    let each = |total: u64| total as f64 / OBJECTS as f64;
    Taken { json_bytes: each(json_bytes as u64), memory_bytes: each(memory), per_second: OBJECTS as f64 / took.as_secs_f64() }
}

fn object(number: u64) -> (Key, Value) {
    let name = format!("settings-{number:07}");
    let namespace = format!("team-{}", number % 100);
    let fields = json!({"f:data": {".": {}, "f:color": {}}});
    let managed = json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("2b6f2d1e-6a5c-4f6b-9a55-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": managed},
        "data": {"color": "grey"},
    });
    (Key::new("configmaps", &namespace, &name), object)
}
