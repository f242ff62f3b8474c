//! Admission webhooks: which are called, what they are asked, what their answers mean (`admission.k8s.io/v1`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::dynamic::{Attributes, Objects, conditions_hold};
use crate::{Resource, meta};

/// The default of `timeoutSeconds`.
const TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
#[derive(Clone, Debug)]
pub struct Webhook(Value);

/// What a webhook answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// A JSON patch, where it changes the object.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
}

/// A webhook that does not allow the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub warnings: Vec<String>,
}

/// What a call came to, as far as the answer could be understood.
pub type Verdict = Result<Result<Answer, Denial>, String>;

/// The webhooks of all configurations whose rules are about a request, in the order in which they are called, each with
/// the version in which it sees the objects.
pub fn named<'a>(configurations: &[Value], attributes: &Attributes<'a>) -> Vec<(Webhook, &'a Resource)> {
    if attributes.resource.group == "admissionregistration.k8s.io" {
        return Vec::new();
    }
    let mut sorted: Vec<&Value> = configurations.iter().collect();
    sorted.sort_by_key(|configuration| meta::name(configuration).to_string());
    let webhooks = sorted.into_iter().flat_map(|configuration| configuration["webhooks"].as_array()).flatten();
    let seen = |webhook: &Value| attributes.version_in(&webhook["rules"], &webhook["matchPolicy"]);
    webhooks.filter_map(|webhook| Some((Webhook(webhook.clone()), seen(webhook)?))).collect()
}

// === impl Webhook ===

impl Webhook {
    /// Whether its selectors and conditions let the request through; `Err` says why that cannot be told.
    pub fn is_meant(&self, attributes: &Attributes<'_>, objects: Objects<'_>) -> Result<bool, String> {
        Ok(attributes.is_selected(&self.0, objects) && conditions_hold(&self.0["matchConditions"], &attributes.variables(objects))?)
    }

    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub fn client(&self) -> &Value {
        &self.0["clientConfig"]
    }

    pub fn timeout_seconds(&self) -> u64 {
        self.0["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)
    }

    /// Whether a request passes that the webhook cannot be asked about.
    pub fn ignores_failure(&self) -> bool {
        self.0["failurePolicy"] == "Ignore"
    }

    /// Whether it wants to see what others make of the object after it.
    pub fn wants_again(&self) -> bool {
        self.0["reinvocationPolicy"] == "IfNeeded"
    }

    /// Whether a dry run may ask it: only one that says it has no side effects then.
    pub fn may_dry_run(&self) -> bool {
        matches!(self.0["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"))
    }

    pub fn review(&self, attributes: &Attributes<'_>, objects: Objects<'_>, uid: &str) -> Value {
        let mut request = attributes.request(uid);
        request["object"] = objects.new.clone();
        request["oldObject"] = objects.old.clone();
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
    }

    /// `VerifyAdmissionResponse`.
    pub fn verdict(&self, review: &Value, uid: &str) -> Verdict {
        let invalid = |why: String| Err(format!("received invalid webhook response: {why}"));
        let response = &review["response"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        if response.is_null() {
            return invalid("webhook response was absent".into());
        }
        if response["uid"] != uid {
            return invalid(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
        }
        if review["kind"] != "AdmissionReview" || review["apiVersion"] != "admission.k8s.io/v1" {
            let found = format!("{}, Kind={}", text(&review["apiVersion"]), text(&review["kind"]));
            return invalid(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}"));
        }
        let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(|w| w.as_str().map(String::from)).collect();
        if response["allowed"] != true {
            return Ok(Err(self.denial(&response["status"], warnings)));
        }
        let patch = match (text(&response["patch"]), response["patchType"].as_str()) {
            (patch, None) if patch.is_empty() => return Ok(Ok(Answer { patch: None, warnings })),
            (patch, Some(_)) if patch.is_empty() => {
                return invalid("webhook returned response.patchType but not response.patch".into());
            }
            (patch, Some("JSONPatch")) => patch,
            (_, Some(other)) => return Err(format!("unsupported patch type {other:?}")),
            (_, None) => return invalid("webhook returned response.patch but not response.patchType".into()),
        };
        let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
        let bytes = STANDARD.decode(patch).map_err(|why| undecodable(why.to_string()))?;
        let operations: Vec<Value> = serde_json::from_slice(&bytes).map_err(|why| undecodable(why.to_string()))?;
        Ok(Ok(Answer { patch: (!operations.is_empty()).then_some(Value::Array(operations)), warnings }))
    }

    /// `ToStatusErr`: a refusal in the webhook's words and with its code, where it has them.
    fn denial(&self, status: &Value, warnings: Vec<String>) -> Denial {
        let text = |field: &str| status[field].as_str().filter(|text| !text.is_empty());
        let prefix = format!("admission webhook \"{}\" denied the request", self.name());
        let message = match (text("message"), text("reason")) {
            (Some(message), _) => format!("{prefix}: {message}"),
            (None, Some(reason)) => format!("{prefix}: {reason}"),
            (None, None) => format!("{prefix} without explanation"),
        };
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        let reason = text("reason").map_or_else(|| if code.is_none() { "Forbidden".into() } else { String::new() }, String::from);
        Denial { code: code.unwrap_or(403), reason, message, warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dynamic::tests::creation;
    use super::*;

    fn configuration(name: &str, extra: Value) -> Value {
        let mut webhook = json!({"name": name,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        extra.as_object().into_iter().flatten().for_each(|(field, value)| webhook[field] = value.clone());
        json!({"metadata": {"name": name}, "webhooks": [webhook]})
    }

    #[test]
    fn calls_those_that_are_meant_in_the_order_of_their_names() {
        let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
        let configurations = [
            configuration("b", json!({})),
            configuration("a", condition("object.metadata.name == 'x'")),
            configuration("c", condition("request.userInfo.username == 'somebody else'")),
            configuration("d", condition("object.spec.nothing > 1")),
        ];
        let object = json!({"metadata": {"name": "x"}, "spec": {}});
        let objects = Objects { new: &object, old: &Value::Null };
        let request = creation("pods");
        let found: Vec<(String, Option<bool>)> = named(&configurations, &request)
            .iter()
            .map(|(webhook, _)| (webhook.name().into(), webhook.is_meant(&request, objects).ok()))
            .collect();
        let expected = [("a", Some(true)), ("b", Some(true)), ("c", Some(false)), ("d", None)];
        assert_eq!(found, expected.map(|(name, meant)| (name.to_string(), meant)));
    }

    #[test]
    fn understands_answers() {
        let webhook = Webhook(json!({"name": "w.example.com"}));
        let verdict = |response: Value| {
            webhook.verdict(&json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}), "u")
        };
        assert_eq!(verdict(json!({"uid": "u", "allowed": true})), Ok(Ok(Answer::default())));
        let invalid = |why: &str| Err(format!("received invalid webhook response: {why}"));
        assert_eq!(verdict(Value::Null), invalid("webhook response was absent"));
        assert_eq!(verdict(json!({"uid": "v", "allowed": true})), invalid("expected response.uid=\"u\", got \"v\""));
        let untyped = json!({"uid": "u", "allowed": true, "patch": STANDARD.encode("[]")});
        assert_eq!(verdict(untyped), invalid("webhook returned response.patch but not response.patchType"));
        let denied =
            |status: Value| verdict(json!({"uid": "u", "allowed": false, "status": status})).map(|v| v.map_err(|d| (d.code, d.message)));
        let message = "admission webhook \"w.example.com\" denied the request";
        assert_eq!(denied(json!({})), Ok(Err((403, format!("{message} without explanation")))));
        assert_eq!(denied(json!({"message": "no", "code": 418})), Ok(Err((418, format!("{message}: no")))));
        let patch = STANDARD.encode(r#"[{"op": "add", "path": "/a", "value": 1}]"#);
        let answer = verdict(json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": patch}));
        assert_eq!(answer, Ok(Ok(Answer { patch: Some(json!([{"op": "add", "path": "/a", "value": 1}])), warnings: Vec::new() })));
    }
}
