//! HorizontalPodAutoscalers (`pkg/apis/autoscaling/validation`), as `autoscaling/v2` knows them.

use serde_json::{Value, json};

use super::at::At;
use super::resource;
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

pub fn autoscaler(autoscaler: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = autoscaler.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    let (least, most) = (at.value.get("minReplicas").and_then(Value::as_i64), at.int("maxReplicas"));
    at.number("minReplicas", 0..=i64::MAX, "must be greater than or equal to 0", errors);
    if most == 0 {
        errors.required(&at.child("maxReplicas"), "");
    }
    at.number("maxReplicas", 0..=i64::MAX, "must be greater than or equal to 1", errors);
    if least.is_some_and(|least| most < least) {
        errors.invalid(&at.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let none = Value::Null;
    reference(&at.given("scaleTargetRef").unwrap_or(At::new(&none, &at.child("scaleTargetRef"))), true, errors);
    at.each("metrics").for_each(|one| metric(&one, errors));
    // What v1 says of the CPU is a metric of v2.
    if let Some(percent) = at.given("targetCPUUtilizationPercentage") {
        let target = at.child("metrics").index(0).child("resource").child("target");
        let stated = json!({"averageUtilization": percent.value});
        At::new(&stated, &target).number("averageUtilization", 1..=i64::MAX, "must be greater than 0", errors);
    }
    let scales_to_zero = at.each("metrics").any(|one| matches!(one.str("type"), "Object" | "External"));
    if least == Some(0) && !scales_to_zero {
        errors.forbidden(&at.child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas");
    }
    if let Some(behavior) = at.given("behavior") {
        for rules in ["scaleUp", "scaleDown"].iter().filter_map(|way| behavior.given(way)) {
            scaling(&rules, errors);
        }
    }
}

/// What is scaled, or what is measured. Only some of the core group can be scaled, by its own name.
fn reference(at: &At<'_>, is_target: bool, errors: &mut Errors) {
    at.require_named("kind", names::path_segment, errors);
    at.require_named("name", names::path_segment, errors);
    let version = at.str("apiVersion");
    let is_core = !version.contains('/') && version != "v1";
    if version.matches('/').count() > 1 {
        errors.invalid(&at.child("apiVersion"), version, &format!("unexpected GroupVersion string: {version}"));
    } else if is_target && is_core {
        errors.invalid(&at.child("apiVersion"), version, "apiVersion must specify API group");
    }
}

fn metric(at: &At<'_>, errors: &mut Errors) {
    const KINDS: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    const FIELDS: [(&str, &str); 5] = [
        ("Object", "object"),
        ("External", "external"),
        ("Pods", "pods"),
        ("Resource", "resource"),
        ("ContainerResource", "containerResource"),
    ];
    let kind = at.str("type");
    if kind.is_empty() {
        errors.required(&at.child("type"), "must specify a metric source type");
    }
    if !KINDS.contains(&kind) {
        errors.unsupported(&at.child("type"), kind, &KINDS);
    }
    let given: Vec<(&str, At<'_>)> = FIELDS.iter().filter_map(|(_, field)| Some((*field, at.given(field)?))).collect();
    if let Some((field, source)) = given.first() {
        match *field {
            "resource" | "containerResource" => resource_source(source, *field == "containerResource", errors),
            _ => other_source(source, field, errors),
        }
    }
    let expected = FIELDS.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if let Some(expected) = expected.filter(|expected| at.given(expected).is_none()) {
        errors.required(&at.child(expected), "must populate information for the given metric source");
    }
    for (_, more) in given.iter().filter(|(field, _)| given.len() != 1 && Some(*field) != expected) {
        errors.forbidden(&more.path, "must populate the given metric source only");
    }
}

fn other_source(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let none = Value::Null;
    let below = |field: &str| at.given(field).unwrap_or(At { value: &Value::Null, path: at.child(field) });
    if kind == "object" {
        reference(&at.given("describedObject").unwrap_or(At::new(&none, &at.child("describedObject"))), false, errors);
    }
    let (metric, target) = (below("metric"), below("target"));
    if metric.str("name").is_empty() {
        errors.required(&metric.child("name"), "must specify a metric name");
    }
    metric.named("name", names::path_segment, errors);
    self::target(&target, errors);
    let (value, average) = (target.given("value"), target.given("averageValue"));
    let missing = match (kind, &value, &average) {
        ("pods", _, None) => Some("must specify a positive target averageValue"),
        ("object", None, None) => Some("must set either a target value or averageValue"),
        ("external", None, None) => Some("must set either a target value for metric or a per-pod target"),
        _ => None,
    };
    if let Some(why) = missing {
        errors.required(&target.child("averageValue"), why);
    }
    if kind == "external" && value.is_some() && average.is_some() {
        errors.forbidden(&target.child("value"), "may not set both a target value for metric and a per-pod target");
    }
}

fn resource_source(at: &At<'_>, is_of_container: bool, errors: &mut Errors) {
    if at.str("name").is_empty() {
        errors.required(&at.child("name"), "must specify a resource name");
    } else if is_of_container {
        resource::of_container(at.str("name"), &at.child("name"), errors);
    }
    if is_of_container && at.str("container").is_empty() {
        errors.required(&at.child("container"), "must specify a container");
    }
    at.named("container", names::dns1123_label, errors);
    let target = at.given("target").unwrap_or(At { value: &Value::Null, path: at.child("target") });
    self::target(&target, errors);
    match (target.given("averageUtilization"), target.given("averageValue")) {
        (None, None) => errors.required(&target.child("averageUtilization"), "must set either a target raw value or a target utilization"),
        (Some(_), Some(raw)) => errors.forbidden(&raw.path, "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

fn target(at: &At<'_>, errors: &mut Errors) {
    let kind = at.str("type");
    if kind.is_empty() {
        errors.required(&at.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&at.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].iter().filter_map(|field| at.given(field)) {
        if amount.value.as_str().and_then(|text| text.parse::<Quantity>().ok()).is_some_and(|amount| amount <= Quantity::ZERO) {
            errors.invalid(&amount.path, amount.value.clone(), "must be positive");
        }
    }
    at.number("averageUtilization", 1..=i64::MAX, "must be greater than 0", errors);
}

fn scaling(at: &At<'_>, errors: &mut Errors) {
    at.number("stabilizationWindowSeconds", 0..=i64::MAX, "must be greater than or equal to zero", errors);
    let most = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
    at.number("stabilizationWindowSeconds", i64::MIN..=WINDOW_SECONDS_MAX, &most, errors);
    at.supported("selectPolicy", &["Disabled", "Max", "Min"], errors);
    if at.count("policies") == 0 {
        errors.required(&at.child("policies"), "must specify at least one Policy");
    }
    for policy in at.each("policies") {
        if !matches!(policy.str("type"), "Pods" | "Percent") {
            errors.unsupported(&policy.child("type"), policy.str("type"), &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            if policy.int(field) <= 0 {
                errors.invalid(&policy.child(field), policy.int(field), "must be greater than zero");
            }
        }
        let most = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
        policy.number("periodSeconds", i64::MIN..=PERIOD_SECONDS_MAX, &most, errors);
    }
    if let Some(tolerance) = at.given("tolerance") {
        tolerance.amount(errors);
    }
}
