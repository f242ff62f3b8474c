//! Tokens in Pods' volumes: issued here, kept until most of their time is over, then replaced.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;
use serde_json::Value;
use skein_object::Key;

use crate::env::Source;
use crate::{Error, PodIdentity};

/// A token is replaced when this share of its time is over, in percent (`kubelet/token`).
const REPLACED_AFTER_PERCENT: i64 = 80;

const SECONDS_DEFAULT: i64 = 3600;

/// The token for a projection: the one in `file` while it is good, else a new one.
pub(crate) fn token(source: &Source<'_>, projection: &ServiceAccountTokenProjection, file: &Path) -> Result<Vec<u8>, Error> {
    let now = Timestamp::now().as_second();
    if let Some(current) = std::fs::read(file).ok().filter(|token| is_fresh(token, now)) {
        return Ok(current);
    }
    let audience = projection.audience.as_deref().unwrap_or_default();
    issue(source, audience, projection.expiration_seconds).map(|(token, _)| token.into_bytes())
}

/// A new token of the Pod's ServiceAccount, and when it ends.
pub(crate) fn issue(source: &Source<'_>, audience: &str, seconds: Option<i64>) -> Result<(String, Timestamp), Error> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &source.pod.metadata;
    let name = source.pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let namespace = text(&metadata.namespace);
    let account = source.state.show(&Key::new("serviceaccounts", &namespace, &name));
    let account = account.ok_or_else(|| Error::Config(format!("serviceaccounts \"{name}\" not found")))?;
    let node = source.state.get(&Key::new("nodes", "", source.node)).and_then(|entry| entry.record.field("metadata"));
    let node_uid = node.and_then(|m| m["uid"].as_str().map(String::from)).unwrap_or_default();
    let (pod, uid) = (text(&metadata.name), text(&metadata.uid));
    let pod = PodIdentity { name: &pod, uid: &uid, node: source.node, node_uid: &node_uid };
    source.tokens.issue(&account, audience, pod, seconds.unwrap_or(SECONDS_DEFAULT)).map_err(Error::Config)
}

/// Whether a token of ours has much of its time left.
fn is_fresh(token: &[u8], now: i64) -> bool {
    let claims = || -> Option<Value> {
        let payload = std::str::from_utf8(token).ok()?.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    };
    let Some(claims) = claims() else { return false };
    let (Some(issued), Some(expires)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else { return false };
    now < issued + (expires - issued) * REPLACED_AFTER_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_it_ends() {
        let token = format!("x.{}.y", URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":2000}"#));
        assert!(is_fresh(token.as_bytes(), 1799));
        assert!(!is_fresh(token.as_bytes(), 1800));
        assert!(!is_fresh(b"nonsense", 0));
    }
}
