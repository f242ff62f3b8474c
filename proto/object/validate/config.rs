//! ConfigMaps and Secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::field::{Errors, Path, Problem};
use crate::names;

/// `MaxSecretSize`: all values of a ConfigMap or Secret together.
const BYTES_MAX: usize = 1 << 20;

/// Names the ServiceAccount that a Secret has a token of.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

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
    let has = |key: &str| secret.get("data").and_then(|data| data.get(key)).is_some();
    let data = Path::new("data");
    match super::text(secret, "type") {
        // What else belongs into it comes from the controller.
        "kubernetes.io/service-account-token" if annotation(secret, ACCOUNT_NAME).is_empty() => {
            errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].iter().filter(|key| !has(key)).for_each(|key| errors.required(&data.key(key), "")),
        "kubernetes.io/ssh-auth" if secret["data"]["ssh-privatekey"].as_str().is_none_or(str::is_empty) => {
            errors.required(&data.key("ssh-privatekey"), "")
        }
        "kubernetes.io/dockerconfigjson" => json(secret, ".dockerconfigjson", errors),
        "kubernetes.io/dockercfg" => json(secret, ".dockercfg", errors),
        _ => {}
    }
}

/// What Docker's tools read.
fn json(secret: &Value, key: &str, errors: &mut Errors) {
    let path = Path::new("data").key(key);
    let Some(encoded) = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str) else {
        return errors.required(&path, "");
    };
    let decoded = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(why) = object_in(&decoded) {
        errors.invalid(&path, "<secret contents redacted>", &why);
    }
}

/// What Go's decoder says of a text that is to hold an object.
fn object_in(text: &[u8]) -> Result<(), String> {
    let why = match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(_) | Value::Null) => return Ok(()),
        Ok(other) => {
            let found = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            return Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"));
        }
        Err(why) if why.is_eof() => return Err("unexpected end of JSON input".into()),
        Err(why) => why,
    };
    let line = text.split(|byte| *byte == b'\n').nth(why.line().saturating_sub(1)).unwrap_or_default();
    let character = line.get(why.column().saturating_sub(1)).copied().map_or(' ', char::from);
    Err(format!("invalid character {character:?} looking for beginning of value"))
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["annotations"][key].as_str().unwrap_or_default()
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
