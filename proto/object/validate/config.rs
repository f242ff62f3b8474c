//! ConfigMaps and Secrets.

use serde_json::Value;

use crate::field::{Errors, Path, Problem};
use crate::names;

/// `MaxSecretSize`: all values of a ConfigMap or Secret together.
const BYTES_MAX: usize = 1 << 20;

pub fn config_map(map: &Value, old: Option<&Value>, errors: &mut Errors) {
    content(map, &["data", "binaryData"], errors);
    frozen(map, old, &["data", "binaryData"], errors);
}

pub fn secret(secret: &Value, old: Option<&Value>, errors: &mut Errors) {
    content(secret, &["data"], errors);
    frozen(secret, old, &["data"], errors);
    if let Some(old) = old {
        super::immutable(secret, old, "/type", &Path::new("type"), errors);
    }
    let required = match super::text(secret, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"][..],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if secret.get("data").and_then(|d| d.get(key)).is_none() {
            errors.required(&Path::new("data").key(key), "");
        }
    }
}

fn content(object: &Value, fields: &[&str], errors: &mut Errors) {
    let mut bytes = 0;
    for field in fields {
        for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
            errors.judge(&Path::new(field).key(key), key.as_str(), names::config_key(key));
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > BYTES_MAX {
        errors.add(&Path::new(""), Problem::TooLong(BYTES_MAX));
    }
}

/// `immutable: true` freezes the content for ever.
fn frozen(object: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|o| o.get("immutable") == Some(&Value::Bool(true))) else { return };
    if object.get("immutable") != Some(&Value::Bool(true)) {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        if object.get(field) != old.get(field) {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}
