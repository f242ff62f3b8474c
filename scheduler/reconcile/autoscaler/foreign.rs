//! Metrics of Pods, objects and external systems, which adapters measure.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec, MetricTarget};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};
use skein_object::quantity::{Quantity, canonical};

use super::metric::{Around, Failure, Measure, Proposal, calculate, group};
use crate::adapters::{Group, Question};
use crate::pods_of::{is_ready, phase};
use crate::snapshot::Stored;

/// What an adapter must be asked for a metric.
pub(super) fn question(metric: &MetricSpec, around: &Around<'_>) -> Option<Question> {
    let namespace = around.namespace;
    match metric.type_.as_str() {
        "Pods" => {
            let of = &metric.pods.as_ref()?.metric;
            let query = query(&[("labelSelector", around.selector), ("metricLabelSelector", &labels(of))]);
            Some(custom(format!("namespaces/{namespace}/pods/*/{}{query}", of.name)))
        }
        "Object" => {
            let object = metric.object.as_ref()?;
            let query = query(&[("metricLabelSelector", &labels(&object.metric))]);
            let (described, name) = (&object.described_object, &object.metric.name);
            let place = match (described.kind.as_str(), described.api_version.as_deref().unwrap_or("v1")) {
                ("Namespace", "v1") => format!("namespaces/{}/metrics", described.name),
                _ => format!("namespaces/{namespace}/{}/{}", (around.resource_of)(described)?, described.name),
            };
            Some(custom(format!("{place}/{name}{query}")))
        }
        "External" => {
            let of = &metric.external.as_ref()?.metric;
            let query = query(&[("labelSelector", &labels(of))]);
            Some(Question { group: Group::External, path: format!("namespaces/{namespace}/{}{query}", of.name) })
        }
        _ => None,
    }
}

fn custom(path: String) -> Question {
    Question { group: Group::Custom, path }
}

fn query(parameters: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|b| if b.is_ascii_alphanumeric() || b"-._~".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect()
    };
    let given: Vec<String> =
        parameters.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// A metric's selector as text.
fn labels(metric: &MetricIdentifier) -> String {
    metric.selector.as_ref().map(text_of).unwrap_or_default()
}

fn text_of(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "Exists" => expression.key.clone(),
            _ => format!("!{}", expression.key),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

/// The replicas that a metric of an adapter asks for.
pub(super) fn propose(metric: &MetricSpec, around: &Around<'_>) -> Result<Proposal, Failure> {
    let measured = |api: &str| -> Result<Vec<(String, i128)>, String> {
        let answer = question(metric, around).and_then(|question| around.adapters.fresh(&question, around.now.as_millisecond()));
        let values = answer.map_or_else(|| Err("no answer".into()), |answer| answer.values.clone());
        let values = values.map_err(|why| format!("unable to fetch metrics from {api} metrics API: {why}"))?;
        if values.is_empty() { Err(format!("no metrics returned from {api} metrics API")) } else { Ok(values) }
    };
    if let Some(source) = &metric.pods {
        let name = &source.metric.name;
        let found = measured("custom").and_then(|values| pods(values, &source.target, around));
        let failed = |why: String| ("FailedGetPodsMetric", format!("failed to get pods metric value: unable to get metric {name}: {why}"));
        let (replicas, current) = found.map_err(failed)?;
        let status = json!({"type": "Pods", "pods": {"metric": source.metric, "current": current}});
        return Ok(Proposal { replicas, name: format!("pods metric {name}"), status });
    }
    if let Some(source) = &metric.object {
        let (name, object) = (&source.metric.name, &source.described_object);
        let found = measured("custom").and_then(|values| one(values[0].1, &source.target, around));
        let failed = |why: String| {
            let of = format!("{} {}/{}", object.kind, around.namespace, object.name);
            ("FailedGetObjectMetric", format!("failed to get object metric value: unable to get metric {name} on {of}: {why}"))
        };
        let (replicas, current) = found.map_err(failed)?;
        let status = json!({"type": "Object", "object": {"describedObject": object, "metric": source.metric, "current": current}});
        return Ok(Proposal { replicas, name: format!("{} metric {name}", object.kind), status });
    }
    let Some(source) = &metric.external else {
        return Err(("InvalidMetricSourceType", format!("unknown metric source type \"{}\"", metric.type_)));
    };
    let name = &source.metric.name;
    let found = measured("external").and_then(|values| one(values.iter().map(|(_, value)| value).sum(), &source.target, around));
    let failed = |why: String| {
        let of = format!("unable to get external metric {}/{name}/{}: {why}", around.namespace, shown(source.metric.selector.as_ref()));
        ("FailedGetExternalMetric", format!("failed to get {name} external metric value: failed to get {name} external metric: {of}"))
    };
    let (replicas, current) = found.map_err(failed)?;
    let status = json!({"type": "External", "external": {"metric": source.metric, "current": current}});
    Ok(Proposal { replicas, name: format!("external metric {name}({})", shown(source.metric.selector.as_ref())), status })
}

/// A selector as Go prints it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{}},}}")
}

fn wanted(quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<i128> {
    quantity.and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map(|quantity| quantity.milli()).filter(|milli| *milli > 0)
}

fn told(milli: i128) -> String {
    canonical(&format!("{milli}m")).unwrap_or_default()
}

/// The mean over the Pods is held against the target.
fn pods(values: Vec<(String, i128)>, target: &MetricTarget, around: &Around<'_>) -> Result<(i64, Value), String> {
    let average = wanted(target.average_value.as_ref()).ok_or("an average value is wanted as target")?;
    let values: BTreeMap<String, i128> = values.into_iter().collect();
    let measure = |pod: &Stored<Pod>| values.get(pod.key.name()).map(|milli| Measure { milli: *milli, begin_ms: None });
    let grouped = group(around, &measure)?;
    if grouped.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (replicas, mean, _) = calculate(&grouped, around, &|_| Some(average), 100)?;
    Ok((replicas, json!({"averageValue": told(mean)})))
}

/// One value is held against the target, or its share of each Pod.
fn one(value: i128, target: &MetricTarget, around: &Around<'_>) -> Result<(i64, Value), String> {
    if let Some(wanted) = wanted(target.value.as_ref()) {
        let ratio = share(value, wanted);
        let replicas = match around.current {
            0 => up(ratio),
            current if around.is_within_tolerances(ratio) => current,
            _ => up(ratio * ready(around)?),
        };
        return Ok((replicas, json!({"value": told(value)})));
    }
    let average = wanted(target.average_value.as_ref()).ok_or("neither a value target nor an average value target was set")?;
    let found = around.found.max(0);
    let ratio = if found == 0 { f64::INFINITY } else { share(value, average * i128::from(found)) };
    let replicas = if around.is_within_tolerances(ratio) { found } else { up(share(value, average)) };
    let mean = if found == 0 { value } else { value.div_euclid(found.into()) + i128::from(value.rem_euclid(found.into()) > 0) };
    Ok((replicas, json!({"averageValue": told(mean)})))
}

#[expect(clippy::cast_precision_loss, reason = "Kubernetes takes ratios as doubles")]
fn share(value: i128, of: i128) -> f64 {
    value as f64 / of as f64
}

#[expect(clippy::cast_possible_truncation, reason = "what is too large is as large as can be")]
fn up(replicas: f64) -> i64 {
    replicas.ceil().min(f64::from(i32::MAX)) as i64
}

#[expect(clippy::cast_precision_loss, reason = "a number of Pods")]
fn ready(around: &Around<'_>) -> Result<f64, String> {
    if around.pods.is_empty() {
        return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
    }
    Ok(around.pods.iter().filter(|pod| phase(&pod.object) == "Running" && is_ready(&pod.object)).count() as f64)
}

/// The resource of a described object, as paths name it: `services`, `ingresses.networking.k8s.io`.
pub(super) type ResourceOf<'a> = &'a dyn Fn(&CrossVersionObjectReference) -> Option<String>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Usage;
    use crate::adapters::{Adapters, Answer};

    fn check(metric: Value, values: &[(&str, i128)], current: i64, expected: Result<(i64, Value), &str>) {
        let metric: MetricSpec = serde_json::from_value(metric).expect("a metric");
        let mut adapters = Adapters::default();
        let resource_of = |_: &CrossVersionObjectReference| Some("ingresses.networking.k8s.io".to_string());
        let (usage, none) = (Usage::default(), Adapters::default());
        let bare = Around::bare(&usage, &none);
        let mut around = Around { selector: "app=web", resource_of: &resource_of, current, found: current, ..bare };
        let question = question(&metric, &around).expect("a question");
        let values = values.iter().map(|(name, value)| ((*name).to_string(), *value)).collect();
        adapters.hear(question, Answer { at_ms: 0, values: Ok(values) });
        around.adapters = &adapters;
        let found = propose(&metric, &around).map(|proposal| (proposal.replicas, proposal.status));
        assert_eq!(found.as_ref().map_err(|(_, why)| why.as_str()), expected.as_ref().map_err(|why| *why), "{metric:?}");
    }

    fn external(target: Value) -> Value {
        json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}})
    }

    #[test]
    fn shares_of_an_external_value_are_held_against_the_target() {
        let told = |current: Value| json!({"type": "External", "external": {"metric": {"name": "queue"}, "current": current}});
        let average = json!({"type": "AverageValue", "averageValue": "10"});
        check(external(average.clone()), &[("", 45_000)], 2, Ok((5, told(json!({"averageValue": "22500m"})))));
        check(external(average.clone()), &[("", 10_000), ("", 11_000)], 2, Ok((2, told(json!({"averageValue": "10500m"})))));
        // From nothing.
        check(external(average.clone()), &[("", 25_000)], 0, Ok((3, told(json!({"averageValue": "25"})))));
        let why = "failed to get queue external metric value: failed to get queue external metric: unable to get external metric \
                   n/queue/nil: no metrics returned from external metrics API";
        check(external(average), &[], 2, Err(why));
        check(external(json!({"type": "Value", "value": "10"})), &[("", 30_000)], 0, Ok((3, told(json!({"value": "30"})))));
    }

    #[test]
    fn questions_are_asked_as_clients_of_kubernetes_ask_them() {
        let resource_of = |object: &CrossVersionObjectReference| (object.kind == "Ingress").then(|| "ingresses.networking.k8s.io".into());
        let (usage, adapters) = (Usage::default(), Adapters::default());
        let around = Around { selector: "app=web", resource_of: &resource_of, ..Around::bare(&usage, &adapters) };
        let check = |metric: Value, expected: Option<&str>| {
            let metric: MetricSpec = serde_json::from_value(metric).expect("a metric");
            assert_eq!(question(&metric, &around).map(|q| q.path).as_deref(), expected);
        };
        let target = json!({"type": "AverageValue", "averageValue": "1"});
        check(
            json!({"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}}, "target": target}}),
            Some("namespaces/n/pods/*/rps?labelSelector=app%3Dweb&metricLabelSelector=a%3Db"),
        );
        let object = |kind: &str, name: &str| {
            json!({"type": "Object", "object": {"describedObject": {"kind": kind, "name": name, "apiVersion": if kind == "Namespace" { "v1" } else { "x/v1" }},
                "metric": {"name": "rps"}, "target": target}})
        };
        check(object("Ingress", "main"), Some("namespaces/n/ingresses.networking.k8s.io/main/rps"));
        check(object("Namespace", "n"), Some("namespaces/n/metrics/rps"));
        check(object("Nothing", "x"), None);
        check(external(json!({"type": "Value", "value": "1"})), Some("namespaces/n/queue"));
    }
}
