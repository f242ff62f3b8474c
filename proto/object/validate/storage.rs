//! Rules of volumes, claims and classes (`pkg/apis/core/validation`, `pkg/apis/storage/validation`).

use serde_json::{Value, json};

use super::at::At;
use super::pod::affinity::node_selector;
use super::volume::Volume;
use super::{immutable, label_selector, list, text};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub fn claim(claim: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = claim.get("spec").cloned().unwrap_or_default();
    claim_spec(&At::new(&spec, &path), errors);
    let Some(old) = old else { return };
    let fixed = |claim: &Value| {
        let mut spec = claim.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            for free in ["resources", "volumeName", "volumeAttributesClassName"] {
                spec.shift_remove(free);
            }
        }
        spec
    };
    let moved = !text(&old["spec"], "volumeName").is_empty() && old["spec"]["volumeName"] != spec["volumeName"];
    if moved || fixed(claim) != fixed(old) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(&path, why);
    }
    let amount = |claim: &Value| {
        let text = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
        text.and_then(|t| t.parse::<crate::quantity::Quantity>().ok()).unwrap_or_default()
    };
    if amount(claim) < amount(old) {
        errors.forbidden(&path.child("resources").child("requests").child("storage"), "field can not be less than status.capacity");
    }
}

/// `ValidatePersistentVolumeClaimSpec`
pub(super) fn claim_spec(at: &At<'_>, errors: &mut Errors) {
    access_modes(at, "at least 1 access mode is required", errors);
    if let Some(selector) = at.given("selector") {
        label_selector(selector.value, &selector.path, errors);
    }
    let path = at.child("resources").key("storage");
    let storage = at.value.pointer("/resources/requests/storage").and_then(Value::as_str);
    match storage.map(str::parse::<Quantity>) {
        None => errors.required(&path, ""),
        Some(Ok(amount)) if amount.milli() <= 0 => errors.invalid(&path, storage.unwrap_or_default(), "must be greater than zero"),
        Some(_) => {}
    }
    for class in ["storageClassName", "volumeAttributesClassName"] {
        at.named(class, names::subdomain, errors);
    }
    at.supported("volumeMode", VOLUME_MODES, errors);
    let (source, reference) = (at.given("dataSource"), at.given("dataSourceRef"));
    for one in [&source, &reference].into_iter().flatten() {
        one.require(&["name", "kind"], errors);
        if one.str("apiGroup").is_empty() && one.str("kind") != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&one.path, one.str("kind"), why);
        }
        one.named("apiGroup", names::subdomain, errors);
    }
    if let Some(reference) = &reference {
        reference.named("namespace", names::dns1123_label, errors);
    }
    if let (Some(source), Some(reference)) = (&source, &reference) {
        let is_alike = ["apiGroup", "kind", "name"].iter().all(|field| source.str(field) == reference.str(field));
        let shown = source.path.to_string();
        if !reference.str("namespace").is_empty() {
            errors.invalid(&at.path, shown, "may not be specified when dataSourceRef.namespace is specified");
        } else if !is_alike {
            errors.invalid(&at.path, shown, "must match dataSourceRef");
        }
    }
}

fn access_modes(at: &At<'_>, none: &str, errors: &mut Errors) {
    let path = at.child("accessModes");
    let modes = list(at.value, "accessModes");
    if modes.is_empty() {
        errors.required(&path, none);
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.iter().any(|known| m == known)) {
        errors.unsupported(&path, mode.clone(), ACCESS_MODES);
    }
    let is_shared = modes.iter().any(|mode| mode != "ReadWriteOncePod" && ACCESS_MODES.iter().any(|known| mode == known));
    if is_shared && modes.contains(&json!("ReadWriteOncePod")) {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

pub fn capacity(capacity: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let at = At::new(capacity, &Path::new(""));
    errors.judge(&at.child("storageClassName"), at.str("storageClassName"), names::subdomain(at.str("storageClassName")));
    if let Some(amount) = at.given("capacity") {
        amount.amount(errors);
    }
    if let Some(selector) = at.given("nodeTopology") {
        label_selector(selector.value, &selector.path, errors);
    }
}

pub fn attachment(attachment: &Value, _old: Option<&Value>, errors: &mut Errors) {
    const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let spec = attachment.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    if at.str("attacher").is_empty() {
        errors.required(&at.child("attacher"), "");
    } else {
        errors.judge(&at.child("attacher"), at.str("attacher"), names::subdomain_of_any_case(at.str("attacher")));
    }
    errors.judge(&at.child("nodeName"), at.str("nodeName"), names::subdomain(at.str("nodeName")));
    let none = Value::Null;
    let source = at.given("source").unwrap_or_else(|| At::new(&none, &at.child("source")));
    match (source.given("inlineVolumeSpec"), source.given("persistentVolumeName")) {
        (None, None) => errors.required(&source.path, ONE_SOURCE),
        (Some(_), Some(_)) => errors.forbidden(&source.path, ONE_SOURCE),
        (Some(inline), None) => volume_spec(&inline, "", true, errors),
        (None, Some(name)) => errors.judge(&name.path, name.value.clone(), names::subdomain(name.value.as_str().unwrap_or_default())),
    }
}

pub fn volume(volume: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = volume.get("spec").cloned().unwrap_or_default();
    volume_spec(&At::new(&spec, &Path::new("spec")), crate::meta::name(volume), false, errors);
}

/// `ValidatePersistentVolumeSpec`; inline it stands in a VolumeAttachment, for a driver only.
fn volume_spec(at: &At<'_>, name: &str, is_inline: bool, errors: &mut Errors) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    access_modes(at, "", errors);
    if is_inline {
        for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
            let says = at
                .given(field)
                .is_some_and(|value| value.value != "" && value.value.as_object().is_none_or(|map| !map.is_empty() || field != "capacity"));
            if says {
                errors.forbidden(&at.child(field), INLINE);
            }
        }
        if at.given("csi").is_none() {
            errors.required(&at.child("csi"), "has to be specified in the context of inline volumes");
        }
        if !matches!(at.str("persistentVolumeReclaimPolicy"), "" | "Retain") {
            errors.forbidden(&at.child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes");
        }
        if at.given("volumeMode").is_some_and(|mode| mode.value != "Filesystem") {
            let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.forbidden(&at.child("volumeMode"), why);
        }
    } else {
        capacity_of(at, errors);
        if !at.str("persistentVolumeReclaimPolicy").is_empty() {
            at.supported("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], errors);
        }
        at.supported("volumeMode", VOLUME_MODES, errors);
        at.named("storageClassName", names::subdomain, errors);
        if let Some(affinity) = at.given("nodeAffinity") {
            match affinity.given("required") {
                Some(required) => node_selector(&required, errors),
                None => errors.required(&affinity.child("required"), "must specify required node constraints"),
            }
        }
    }
    let kind = super::volume::source(at, Volume { name, is_persistent: true }, errors);
    if kind == "local" && (is_inline || at.given("nodeAffinity").is_none()) {
        errors.required(&at.child("nodeAffinity"), "Local volume requires node affinity");
    }
    let root = at.given("hostPath").map(|host| host.str("path").trim_end_matches('/').trim_start_matches('/').is_empty());
    if root == Some(true)
        && at.given("hostPath").is_some_and(|host| !host.str("path").is_empty())
        && at.str("persistentVolumeReclaimPolicy") == "Recycle"
    {
        errors.forbidden(&at.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    if let Some(class) = at.given("volumeAttributesClassName") {
        if class.value == "" {
            errors.required(&class.path, "an empty string is disallowed");
        }
        at.named("volumeAttributesClassName", names::subdomain, errors);
        if at.given("csi").is_none() {
            errors.required(&at.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn capacity_of(at: &At<'_>, errors: &mut Errors) {
    let path = at.child("capacity");
    let amounts = at.given("capacity").and_then(|amounts| amounts.value.as_object()).filter(|amounts| !amounts.is_empty());
    if amounts.is_none() {
        errors.required(&path, "");
    }
    if amounts.is_none_or(|amounts| amounts.len() > 1 || !amounts.contains_key("storage")) {
        errors.unsupported(&path, at.value.get("capacity").cloned().unwrap_or_default(), &["storage"]);
    }
    for (name, amount) in at.entries("capacity") {
        let path = path.key(name);
        let number: Option<Quantity> = amount.as_str().and_then(|text| text.parse().ok());
        if let Some(negative) = number.filter(|number| number.units() < 0) {
            errors.invalid(&path, i64::try_from(negative.units()).unwrap_or(i64::MIN), "must be a valid resource quantity");
        }
        if number.is_some_and(|number| number <= Quantity::ZERO) {
            errors.invalid(&path, amount.clone(), "must be greater than zero");
        }
    }
}

pub fn class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = At::new(class, &Path::new(""));
    let provisioner = at.str("provisioner").to_lowercase();
    if provisioner.is_empty() {
        errors.required(&Path::new("provisioner"), "");
    } else {
        errors.judge(&Path::new("provisioner"), provisioner.as_str(), names::qualified_name(&provisioner));
    }
    topologies(&at, errors);
    if !matches!(text(class, "reclaimPolicy"), "Delete" | "Retain") {
        errors.unsupported(&Path::new("reclaimPolicy"), text(class, "reclaimPolicy"), &["Delete", "Retain"]);
    }
    if !matches!(text(class, "volumeBindingMode"), "Immediate" | "WaitForFirstConsumer") {
        errors.unsupported(&Path::new("volumeBindingMode"), text(class, "volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    }
    let Some(old) = old else { return };
    if class.get("parameters") != old.get("parameters") {
        errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
    }
    if class.get("provisioner") != old.get("provisioner") {
        errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
    }
    if class.get("reclaimPolicy") != old.get("reclaimPolicy") {
        errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
    }
    immutable(class, old, "/volumeBindingMode", &Path::new("volumeBindingMode"), errors);
}

/// `ValidateAllowedTopologies`
fn topologies(at: &At<'_>, errors: &mut Errors) {
    let mut seen: Vec<&Value> = Vec::new();
    for term in at.each("allowedTopologies") {
        let path = term.child("matchLabelExpressions");
        let mut keys = Vec::new();
        for one in term.each("matchLabelExpressions") {
            let values: Vec<&Value> = one.each("values").map(|value| value.value).collect();
            if values.is_empty() {
                errors.required(&one.child("values"), "");
            }
            for (index, value) in values.iter().enumerate().filter(|(index, value)| values[..*index].contains(value)) {
                errors.duplicate(&one.child("values").index(index), (*value).clone());
            }
            errors.judge(&one.child("key"), one.str("key"), names::qualified_name(one.str("key")));
            if keys.contains(&one.str("key")) {
                errors.duplicate(&one.child("key"), one.str("key"));
            }
            keys.push(one.str("key"));
        }
        let expressions = term.value.get("matchLabelExpressions").unwrap_or(&Value::Null);
        if keys.is_empty() || seen.contains(&expressions) {
            errors.duplicate(&path, "");
        }
        seen.push(expressions);
    }
}

pub fn csi_driver(driver: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = driver.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    at.supported("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], errors);
    at.number("nodeAllocatableUpdatePeriodSeconds", 10..=i64::MAX, "must be greater than or equal to 10 seconds", errors);
    if let Some(flag) = at.given("serviceAccountTokenInSecrets").filter(|_| at.count("tokenRequests") == 0) {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&flag.path, flag.value.clone(), why);
    }
    for (index, request) in at.each("tokenRequests").enumerate() {
        if at.each("tokenRequests").take(index).any(|before| before.str("audience") == request.str("audience")) {
            errors.duplicate(&request.child("audience"), request.str("audience"));
        }
        request.number("expirationSeconds", 600..=i64::MAX, "may not specify a duration less than 10 minutes", errors);
        request.number("expirationSeconds", i64::MIN..=1 << 32, "may not specify a duration larger than 2^32 seconds", errors);
    }
    for mode in at.each("volumeLifecycleModes").filter(|mode| mode.value != "Persistent" && mode.value != "Ephemeral") {
        errors.unsupported(&at.child("volumeLifecycleModes"), mode.value.clone(), &["Persistent", "Ephemeral"]);
    }
}

pub fn csi_node(node: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = node.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    for (index, driver) in at.each("drivers").enumerate() {
        super::volume::driver(&driver, "name", errors);
        driver.require(&["nodeID"], errors);
        if let Some(allocatable) = driver.given("allocatable") {
            allocatable.non_negative(&["count"], errors);
        }
        if at.each("drivers").take(index).any(|before| before.str("name") == driver.str("name")) {
            errors.duplicate(&driver.child("name"), driver.str("name"));
        }
        for key in driver.each("topologyKeys").filter_map(|key| key.value.as_str()) {
            errors.judge(&driver.path, key, names::qualified_name(key));
        }
    }
}

pub fn attributes_class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = At::new(class, &Path::new(""));
    let name = at.str("driverName");
    if name.is_empty() {
        errors.required(&at.child("driverName"), "");
    } else {
        errors.judge(&at.child("driverName"), name.to_lowercase(), names::qualified_name(&name.to_lowercase()));
    }
    if at.count("parameters") == 0 {
        errors.required(&at.child("parameters"), "must contain at least one key/value pair");
    }
    if let Some(old) = old {
        immutable(class, old, "/driverName", &at.child("driverName"), errors);
    }
}

pub fn version_migration(migration: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = migration.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec").child("resource");
    let resource = At::new(spec.get("resource").unwrap_or(&Value::Null), &path);
    if resource.str("resource").is_empty() {
        errors.required(&resource.child("resource"), "resource is required to be set");
    }
    resource.named("resource", names::dns1035_label, errors);
    resource.named("group", names::subdomain, errors);
}
