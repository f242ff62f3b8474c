//! Bootstrap tokens that have ended are deleted (`pkg/controller/bootstrap/tokencleaner.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use skein_command::{Transaction, Write};
use skein_object::Key;
use skein_state::Event;

use crate::snapshot::Snapshot;
use crate::{Controller, Mint, Outcome};

const HOME: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &Mint) -> Outcome {
    let Some(entry) = snapshot.state.get(key) else { return Outcome::default() };
    let is_token = entry.record.field("type").is_some_and(|kind| kind == "bootstrap.kubernetes.io/token");
    let data = entry.record.field("data").unwrap_or_default();
    let end = data["expiration"].as_str().filter(|_| is_token).and_then(|text| STANDARD.decode(text).ok());
    let end = end.and_then(|text| String::from_utf8(text).ok()).and_then(|text| text.parse::<Timestamp>().ok());
    match end {
        None => Outcome::default(),
        Some(end) if end <= mint.now => vec![Transaction::from(Write::delete(key, entry.revision))].into(),
        Some(end) => {
            let left = u64::try_from(end.duration_since(mint.now).as_millis()).unwrap_or(0);
            Outcome { transactions: Vec::new(), again_ms: Some(left + 1) }
        }
    }
}

pub(crate) fn of_secret(event: &Event) -> Option<(Controller, Key)> {
    let key = &event.key;
    (key.namespace() == HOME && key.name().starts_with(PREFIX)).then(|| (Controller::BootstrapToken, key.clone()))
}
