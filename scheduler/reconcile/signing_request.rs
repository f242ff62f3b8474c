//! CertificateSigningRequests go an hour after they were decided, and after a day if nobody did
//! (`pkg/controller/certificates/cleaner`).

use serde_json::Value;
use skein_command::{Transaction, Write};
use skein_object::Key;

use crate::snapshot::Snapshot;
use crate::{Mint, Outcome};

pub(crate) const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";

const DECIDED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &Mint) -> Outcome {
    let Some(entry) = snapshot.state.get(key) else { return Outcome::default() };
    let status = entry.record.field("status").unwrap_or_default();
    let created = entry.record.field("metadata").and_then(|m| m["creationTimestamp"].as_str().map(String::from)).unwrap_or_default();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let decided = conditions.filter(|c| matches!(c["type"].as_str(), Some("Approved" | "Denied" | "Failed"))).filter_map(last_change).max();
    // An approved one without its certificate still waits for a signer.
    let signed = status["certificate"].as_str().is_some_and(|c| !c.is_empty());
    let approved = status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Approved");
    let (since, seconds) = match decided {
        Some(time) if signed || !approved => (time, DECIDED_SECONDS),
        _ => (created, PENDING_SECONDS),
    };
    let age = mint.seconds_since(&since).unwrap_or(0);
    if age < seconds {
        return Outcome { again_ms: u64::try_from((seconds - age) * 1000).ok(), ..Outcome::default() };
    }
    Outcome::from(vec![Transaction::from(Write::delete(key, entry.revision))])
}

fn last_change(condition: &Value) -> Option<String> {
    Some(condition["lastUpdateTime"].as_str()?.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skein_object::Record;
    use skein_state::{Entry, State};
    use std::sync::Arc;

    use super::*;
    use crate::Liveness;

    #[test]
    fn requests_are_kept_until_they_have_been_read() {
        let check = |age_seconds: i64, status: Value, expected: (usize, Option<u64>)| {
            let now = jiff::Timestamp::from_second(1_000_000).expect("a time");
            let time = skein_object::meta::time(jiff::Timestamp::from_second(1_000_000 - age_seconds).expect("a time"));
            let text = json!({"metadata": {"name": "r", "creationTimestamp": time}, "status": status}).to_string().replace("THEN", &time);
            let key = Key::new(REQUESTS, "", "r");
            let mut state = State::default();
            let record = Record::from_value(&serde_json::from_str(&text).expect("JSON"));
            state.restore(key.clone(), Entry { revision: 1, record: Arc::new(record) });
            let outcome = reconcile(&Snapshot::of(&state), &key, &Mint::new(now, 1, Liveness::default()));
            assert_eq!((outcome.transactions.len(), outcome.again_ms), expected, "{text}");
        };
        let approved = json!([{"type": "Approved", "status": "True", "lastUpdateTime": "THEN"}]);
        check(10, json!({}), (0, Some(86_390_000)));
        check(86_400, json!({}), (1, None));
        check(3600, json!({"conditions": approved, "certificate": "abc"}), (1, None));
        check(3600, json!({"conditions": approved}), (0, Some(82_800_000)));
        check(60, json!({"conditions": [{"type": "Denied", "status": "True", "lastUpdateTime": "THEN"}]}), (0, Some(3_540_000)));
    }
}
