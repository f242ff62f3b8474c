//! Claims of devices and their classes (`pkg/apis/resource/validation`, KEP-4381).

use serde_json::Value;

use super::at::At;
use crate::expression;
use crate::field::{Errors, Path};
use crate::names;

const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

pub fn claim(claim: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = claim.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    devices(&at, errors);
    if let Some(old) = old {
        super::immutable(claim, old, "/spec", &at.path, errors);
    }
}

pub fn template(template: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = template.pointer("/spec/spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec").child("spec"));
    devices(&at, errors);
    if let Some(old) = old {
        super::immutable(template, old, "/spec", &Path::new("spec"), errors);
    }
}

pub fn class(class: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = class.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    selectors(&at, errors);
    at.each("config").for_each(|one| configuration(&one, errors));
    let name = at.str("extendedResourceName");
    if name.is_empty() {
        return;
    }
    if !name.contains('/') {
        errors.invalid(&at.child("extendedResourceName"), name, "a name must be a domain-prefixed path, such as 'example.com/my-prop'");
    }
    errors.judge(&at.child("extendedResourceName"), name, names::qualified_name(name));
}

fn devices(spec: &At<'_>, errors: &mut Errors) {
    let Some(at) = spec.given("devices") else { return };
    let mut known: Vec<String> = Vec::new();
    for (index, request) in at.each("requests").enumerate() {
        let name = request.str("name");
        errors.judge(&request.child("name"), name, names::dns1123_label(name));
        if known.iter().any(|before| before == name) {
            errors.duplicate(&request.child("name"), name);
        }
        known.push(name.to_owned());
        match (request.given("exactly"), request.count("firstAvailable")) {
            (None, 0) => errors.required(&request.path, "exactly one of `exactly` or `firstAvailable` is required"),
            (Some(_), 1..) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.invalid(&request.path, request.value.clone(), why);
            }
            (Some(exactly), 0) => {
                if exactly.flag("adminAccess") {
                    let why = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";
                    // Kubernetes names the place as in a claim, also in a template.
                    errors.forbidden(&Path::new("spec").child("devices").child("requests").index(index).child("adminAccess"), why);
                }
                self::request(&exactly, errors);
            }
            (None, _) => {
                for sub in request.each("firstAvailable") {
                    errors.judge(&sub.child("name"), sub.str("name"), names::dns1123_label(sub.str("name")));
                    known.push(format!("{name}/{}", sub.str("name")));
                    self::request(&sub, errors);
                }
            }
        }
    }
    for constraint in at.each("constraints") {
        references(&constraint, &known, errors);
        let attributes = ["matchAttribute", "distinctAttribute"];
        let given: Vec<At<'_>> = attributes.iter().filter_map(|field| constraint.given(field)).collect();
        given.iter().for_each(|attribute| qualified(attribute, errors));
        if given.len() != 1 {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.required(&constraint.path, why);
        }
    }
    for one in at.each("config") {
        references(&one, &known, errors);
        configuration(&one, errors);
    }
}

fn request(at: &At<'_>, errors: &mut Errors) {
    at.require_named("deviceClassName", names::subdomain, errors);
    selectors(at, errors);
    match at.str("allocationMode") {
        "ExactCount" => {
            if at.int("count") <= 0 {
                errors.invalid(&at.child("count"), at.int("count"), "must be greater than zero");
            }
        }
        "All" => {
            if at.int("count") != 0 {
                errors.invalid(&at.child("count"), at.int("count"), "must not be specified when allocationMode is 'All'");
            }
        }
        other => errors.unsupported(&at.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    for one in at.each("tolerations") {
        one.named("key", names::qualified_name, errors);
        match one.str("operator") {
            "Exists" if !one.str("value").is_empty() => {
                errors.invalid(&one.child("value"), one.str("value"), "must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => errors.judge(&one.child("value"), one.str("value"), names::label_value(one.str("value"))),
            other => errors.unsupported(&one.child("operator"), other, &["Equal", "Exists"]),
        }
        one.supported("effect", &["NoExecute", "NoSchedule", "None"], errors);
    }
}

fn selectors(at: &At<'_>, errors: &mut Errors) {
    for selector in at.each("selectors") {
        let Some(cel) = selector.given("cel") else {
            errors.required(&selector.child("cel"), "");
            continue;
        };
        let source = cel.str("expression");
        if let Some(why) = expression::compile(source).err().or_else(|| expression::undeclared(source, &["device"])) {
            errors.invalid(&cel.child("expression"), source, &format!("compilation failed: {why}"));
        }
    }
}

/// Requests that a constraint or a configuration is for.
fn references(at: &At<'_>, known: &[String], errors: &mut Errors) {
    for one in at.each("requests") {
        let name = one.value.as_str().unwrap_or_default();
        for part in name.split('/') {
            errors.judge(&one.path, name, names::dns1123_label(part));
        }
        if !known.iter().any(|request| request == name) {
            let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            errors.invalid(&one.path, name, why);
        }
    }
}

fn configuration(at: &At<'_>, errors: &mut Errors) {
    let Some(opaque) = at.given("opaque") else { return errors.required(&at.child("opaque"), "") };
    let driver = opaque.str("driver");
    if driver.is_empty() {
        errors.required(&opaque.child("driver"), "");
    } else {
        errors.judge(&opaque.child("driver"), driver, names::subdomain_of_any_case(driver));
    }
    match opaque.given("parameters").map(|parameters| parameters.value) {
        None => errors.required(&opaque.child("parameters"), ""),
        Some(Value::Object(_)) => {}
        Some(_) => errors.invalid(&opaque.child("parameters"), "<value omitted>", "must be a valid JSON object"),
    }
}

/// `example.com/attribute`
fn qualified(at: &At<'_>, errors: &mut Errors) {
    let text = at.value.as_str().unwrap_or_default();
    let (domain, name) = text.split_once('/').unwrap_or(("", text));
    if !text.contains('/') {
        errors.invalid(&at.path, text, "a fully qualified name must be a domain and a name separated by a slash");
    }
    if !domain.is_empty() {
        errors.judge(&at.path, domain, names::subdomain(domain));
    }
    let is_identifier =
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_identifier {
        errors.invalid(&at.path, name, IDENTIFIER);
    }
}
