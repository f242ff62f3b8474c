//! Conversion of custom resources between versions by a webhook (`ConversionReview`).

use serde_json::{Map, Value, json};

/// The version in which objects rest, and who converts them.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// `clientConfig`
    pub client: Value,
}

/// kube-apiserver waits so long for a conversion.
pub const TIMEOUT_SECONDS: u64 = 30;

// === impl Conversion ===

impl Conversion {
    /// What the definition says, where it says that a webhook converts.
    pub(super) fn of(spec: &Value) -> Option<Self> {
        let conversion = &spec["conversion"];
        (conversion["strategy"] == "Webhook").then(|| Self { client: conversion["webhook"]["clientConfig"].clone() })
    }

    /// The question.
    pub fn review(&self, desired: &str, objects: &[Value], uid: &str) -> Value {
        json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        })
    }

    /// The objects that were answered, each for the one that was asked about; what identifies them cannot change.
    pub fn verdict(&self, answer: &Value, desired: &str, asked: &[Value], uid: &str) -> Result<Vec<Value>, String> {
        let response = &answer["response"];
        if answer["kind"] != "ConversionReview" || !response.is_object() {
            return Err("the answer is no ConversionReview with a response".into());
        }
        if response["uid"] != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", response["uid"].as_str().unwrap_or_default()));
        }
        if response["result"]["status"] != "Success" {
            let why = response["result"]["message"].as_str().filter(|why| !why.is_empty()).unwrap_or("it did not say why");
            return Err(why.into());
        }
        let converted = response["convertedObjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        if converted.len() != asked.len() {
            return Err(format!("webhook returned {} objects, expected {}", converted.len(), asked.len()));
        }
        converted.iter().zip(asked).map(|(now, before)| accepted(now, before, desired)).collect()
    }
}

/// Only labels and annotations of the metadata are taken from what the webhook says.
fn accepted(now: &Value, before: &Value, desired: &str) -> Result<Value, String> {
    for (field, expected) in [("apiVersion", &json!(desired)), ("kind", &before["kind"])] {
        if now[field] != *expected {
            return Err(format!("returned invalid converted object: invalid {field}: {}, expected {expected}", now[field]));
        }
    }
    let metadata = |object: &Value| object["metadata"].as_object().cloned().unwrap_or_default();
    let (said, mut kept) = (metadata(now), metadata(before));
    for field in ["name", "namespace", "uid"] {
        let text = |map: &Map<String, Value>| map.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        if text(&said) != text(&kept) {
            return Err(format!("returned invalid converted object: must have the same {field}: {:?}", text(&kept)));
        }
    }
    for field in ["labels", "annotations"] {
        match said.get(field) {
            Some(value) => kept.insert(field.into(), value.clone()),
            None => kept.shift_remove(field),
        };
    }
    let mut converted = now.clone();
    converted["metadata"] = kept.into();
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_and_honest_answers_count() {
        let conversion = Conversion { client: json!({}) };
        let asked =
            [json!({"apiVersion": "g/v1", "kind": "W", "metadata": {"name": "a", "uid": "1", "generation": 3}, "spec": {"old": 1}})];
        let answer = |uid: &str, objects: Value| json!({"kind": "ConversionReview", "response": {"uid": uid, "result": {"status": "Success"}, "convertedObjects": objects}});
        let check = |answer: Value, expected: Result<Value, &str>| {
            let found = conversion.verdict(&answer, "g/v2", &asked, "u");
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, [expected]),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        };
        let good =
            json!({"apiVersion": "g/v2", "kind": "W", "metadata": {"name": "a", "uid": "1", "labels": {"x": "y"}}, "spec": {"new": 1}});
        let whole = json!({"apiVersion": "g/v2", "kind": "W", "metadata": {"name": "a", "uid": "1", "generation": 3, "labels": {"x": "y"}},
            "spec": {"new": 1}});
        check(answer("u", json!([good])), Ok(whole));
        check(answer("v", json!([good])), Err("expected response.uid"));
        check(answer("u", json!([])), Err("returned 0 objects, expected 1"));
        let mut other = good.clone();
        other["metadata"]["name"] = "b".into();
        check(answer("u", json!([other])), Err("must have the same name"));
        check(answer("u", asked.to_vec().into()), Err("invalid apiVersion"));
        let failed = json!({"kind": "ConversionReview", "response": {"uid": "u", "result": {"status": "Failure", "message": "no way"}}});
        check(failed, Err("no way"));
    }
}
