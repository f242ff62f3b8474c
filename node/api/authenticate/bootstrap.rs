//! Bootstrap tokens: `ID.SECRET`, kept as a Secret in kube-system, for whoever is to become a member of the cluster
//! (`plugin/pkg/auth/authenticator/token/bootstrap`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use skein_object::Key;

use super::User;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Whom a token stands for, by the Secrets that `read` finds; `None` where it is no bootstrap token that holds.
pub(super) fn user(token: &str, read: &dyn Fn(&Key) -> Option<Value>) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    let is_of = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !is_of(id, 6) || !is_of(secret, 16) {
        return None;
    }
    let kept = read(&Key::new("secrets", "kube-system", &format!("bootstrap-token-{id}")))?;
    let data = |field: &str| -> Option<String> { String::from_utf8(STANDARD.decode(kept["data"][field].as_str()?).ok()?).ok() };
    // Of digests the time of a comparison tells nothing.
    let is_right = digest(&SHA256, data("token-secret")?.as_bytes()).as_ref() == digest(&SHA256, secret.as_bytes()).as_ref();
    if !is_right || kept["type"] != TYPE || data("token-id")? != id || !kept["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    // A time that cannot be read is one that has passed.
    let holds = data("expiration").is_none_or(|end| end.parse::<Timestamp>().is_ok_and(|end| end > Timestamp::now()));
    if !holds || data("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let extra: Vec<String> =
        data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()).map(String::from).collect();
    if !extra.iter().all(|group| is_group(group)) {
        return None;
    }
    let groups = [GROUP.to_string()].into_iter().chain(extra).chain(["system:authenticated".into()]).collect();
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(group: &str) -> bool {
    group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')).is_some_and(|rest| {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        rest.len() <= 256 && rest.bytes().all(|b| is_plain(b) || b == b':' || b == b'-') && rest.bytes().last().is_some_and(is_plain)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(change: &Value) -> Value {
        let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm"});
        change.as_object().into_iter().flatten().for_each(|(field, value)| data[field] = value.clone());
        let encoded = data.as_object().into_iter().flatten();
        let encoded = encoded.map(|(field, value)| (field.clone(), STANDARD.encode(value.as_str().unwrap_or_default()).into()));
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": encoded.collect::<serde_json::Map<_, Value>>()})
    }

    #[test]
    fn tokens_hold_while_their_secret_says_so() {
        let check = |change: Value, token: &str, expected: Option<&str>| {
            let read = |key: &Key| (key.name() == "bootstrap-token-abcdef").then(|| secret(&change));
            assert_eq!(user(token, &read).map(|user| user.groups.join(" ")).as_deref(), expected, "{change} {token}");
        };
        let right = "abcdef.0123456789abcdef";
        check(json!({}), right, Some("system:bootstrappers system:bootstrappers:kubeadm system:authenticated"));
        check(json!({}), "abcdef.0123456789abcdee", None);
        check(json!({}), "abcdeg.0123456789abcdef", None);
        check(json!({"expiration": "2020-01-01T00:00:00Z"}), right, None);
        check(json!({"expiration": "soon"}), right, None);
        check(json!({"usage-bootstrap-authentication": "false"}), right, None);
        check(json!({"auth-extra-groups": "system:masters"}), right, None);
        check(json!({"auth-extra-groups": ""}), right, Some("system:bootstrappers system:authenticated"));
    }
}
