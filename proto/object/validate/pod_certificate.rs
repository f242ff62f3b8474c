//! PodCertificateRequests (KEP-4317, `pkg/apis/certificates/validation`). What only a reader of X.509 can tell, the API
//! tells.

use serde_json::{Map, Value};

use super::at::At;
use super::text;
use crate::field::{Errors, Path, Problem};
use crate::names;

const SECONDS_MIN: i64 = 3600;
/// Kubernetes' own signers sign for a day.
const KUBERNETES_SECONDS_MAX: i64 = 24 * 3600;
const SECONDS_MAX: i64 = 91 * 24 * 3600;
const UID_LENGTH_MAX: usize = 128;
/// Bytes, which stand there in base64.
const PROOF_LENGTH_MAX: usize = 10 * 1024;
const CHAIN_LENGTH_MAX: usize = 100 * 1024;

/// The conditions that end a request.
const ANSWERS: [&str; 3] = ["Issued", "Denied", "Failed"];

pub fn request(request: &Value, old: Option<&Value>, errors: &mut Errors) {
    if let Some(old) = old {
        return super::immutable(request, old, "/spec", &Path::new("spec"), errors);
    }
    let nothing = Value::Object(Map::new());
    let spec = At::new(request.get("spec").unwrap_or(&nothing), &Path::new("spec"));
    super::access::signer_name(spec.str("signerName"), &spec.child("signerName"), errors);
    user_annotations(&spec, "unverifiedUserAnnotations", errors);
    for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        errors.judge(&spec.child(name), spec.str(name), names::subdomain(spec.str(name)));
        if spec.str(uid).is_empty() {
            errors.invalid(&spec.child(uid), "", "must not be empty");
        }
        if spec.str(uid).len() > UID_LENGTH_MAX {
            errors.add(&spec.child(uid), Problem::TooLong(UID_LENGTH_MAX));
        }
    }
    let Some(seconds) = spec.given("maxExpirationSeconds").and_then(|at| at.value.as_i64()) else {
        return errors.required(&spec.child("maxExpirationSeconds"), "must be set");
    };
    let most = seconds_max(spec.str("signerName"));
    if !(SECONDS_MIN..=most).contains(&seconds) {
        errors.invalid(&spec.child("maxExpirationSeconds"), seconds, &format!("must be in the range [{SECONDS_MIN}, {most}]"));
    }
    let proof = spec.str("stubPKCS10Request");
    if proof.is_empty() {
        let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        errors.add(&spec.path, Problem::Omitted(why.into()));
    } else if proof.len() / 4 * 3 > PROOF_LENGTH_MAX {
        errors.add(&spec.child("stubPKCS10Request"), Problem::TooLong(PROOF_LENGTH_MAX));
    }
}

/// For how long a signer may sign at most.
pub(super) fn seconds_max(signer: &str) -> i64 {
    if signer.starts_with("kubernetes.io/") { KUBERNETES_SECONDS_MAX } else { SECONDS_MAX }
}

/// What somebody who makes a Pod wants its signer to know.
pub(super) fn user_annotations(at: &At<'_>, field: &str, errors: &mut Errors) {
    for (key, _) in at.entries(field) {
        let lower = key.to_lowercase();
        match names::qualified_name(&lower) {
            Ok(()) if !lower.contains('/') => {
                errors.invalid(&at.child(field), lower, "must be a domain-prefixed key (such as \"acme.io/foo\")");
            }
            verdict => errors.judge(&at.child(field), lower, verdict),
        }
    }
}

/// `ValidatePodCertificateRequestStatusUpdate`: a request is answered once.
pub fn status(request: &Value, old: &Value, errors: &mut Errors) {
    let nothing = Value::Object(Map::new());
    let at = At::new(request.get("status").unwrap_or(&nothing), &Path::new("status"));
    let before = errors.len();
    answers(&at, errors);
    super::status::conditions(&at, errors);
    if errors.len() > before {
        return;
    }
    let is_changed = at.value != old.get("status").unwrap_or(&nothing);
    let says_more = at.value.as_object().is_some_and(|fields| fields.keys().any(|field| field != "conditions"));
    let why = match (answer(old), answer(request)) {
        (Some(_), _) if is_changed => "immutable after PodCertificateRequest is issued, denied, or failed",
        (None, None) if is_changed => "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        (None, Some("Denied" | "Failed")) if says_more => {
            "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        }
        (None, Some("Issued")) if at.str("certificateChain").len() > CHAIN_LENGTH_MAX => {
            return errors.add(&at.child("certificateChain"), Problem::TooLong(CHAIN_LENGTH_MAX));
        }
        _ => return,
    };
    errors.add(&at.path, Problem::Omitted(why.into()));
}

/// How a request was answered.
pub fn answer(request: &Value) -> Option<&str> {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut given = conditions.filter(|condition| text(condition, "status") == "True").map(|condition| text(condition, "type"));
    given.find(|kind| ANSWERS.contains(kind))
}

fn answers(status: &At<'_>, errors: &mut Errors) {
    for (index, condition) in status.each("conditions").enumerate() {
        // Kubernetes writes a dot before the index here.
        let at = status.child("conditions").child(&format!("[{index}]"));
        let kind = condition.str("type");
        if !ANSWERS.contains(&kind) {
            errors.unsupported(&at.child("type"), kind, &ANSWERS);
            continue;
        }
        if index > 0 {
            errors.invalid(&at.child("type"), kind, "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"");
        }
        if condition.str("status") != "True" {
            errors.unsupported(&at.child("status"), condition.str("status"), &["True"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(errors: &Errors) -> Vec<String> {
        errors.causes().iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_request_names_its_pod_and_proves_its_key() {
        let check = |change: fn(&mut Value), expected: &[&str]| {
            let mut object = json!({"spec": {
                "signerName": "example.com/signer", "podName": "p", "podUID": "u", "serviceAccountName": "s",
                "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w", "maxExpirationSeconds": 86400, "stubPKCS10Request": "AAAA",
            }});
            change(&mut object["spec"]);
            let mut errors = Errors::default();
            request(&object, None, &mut errors);
            assert_eq!(told(&errors), expected);
        };
        check(|_| {}, &[]);
        check(|spec| spec["podUID"] = json!(""), &["spec.podUID: Invalid value: \"\": must not be empty"]);
        check(|spec| spec["signerName"] = json!("kubernetes.io/a"), &[]);
        check(
            |spec| {
                spec["signerName"] = json!("kubernetes.io/a");
                spec["maxExpirationSeconds"] = json!(86401);
            },
            &["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"],
        );
        check(
            |spec| spec["stubPKCS10Request"] = json!(""),
            &["spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"],
        );
        check(
            |spec| spec["unverifiedUserAnnotations"] = json!({"a": "b"}),
            &["spec.unverifiedUserAnnotations: Invalid value: \"a\": must be a domain-prefixed key (such as \"acme.io/foo\")"],
        );
    }

    #[test]
    fn a_request_is_answered_once() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let check = |new: Value, old: Value, expected: &[&str]| {
            let mut errors = Errors::default();
            status(&json!({"status": new}), &json!({"status": old}), &mut errors);
            assert_eq!(told(&errors), expected);
        };
        let (denied, issued) = (json!({"conditions": [condition("Denied")]}), json!({"conditions": [condition("Issued")]}));
        check(denied.clone(), json!({}), &[]);
        check(denied.clone(), denied.clone(), &[]);
        check(issued, denied.clone(), &["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"]);
        check(
            json!({"certificateChain": "x"}),
            json!({}),
            &["status: Invalid value: status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\""],
        );
        check(
            json!({"conditions": [condition("Denied")], "certificateChain": "x"}),
            json!({}),
            &["status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest"],
        );
        check(
            json!({"conditions": [condition("Late")]}),
            json!({}),
            &["status.conditions.[0].type: Unsupported value: \"Late\": supported values: \"Issued\", \"Denied\", \"Failed\""],
        );
    }
}
