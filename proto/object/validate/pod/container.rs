//! What every container must be: `validateContainerCommon`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::at::{At, inner_path, no_backsteps};
use super::super::resource;
use super::{environment, security};
use crate::field::{Errors, Path, Problem};
use crate::names;
use crate::quantity::Quantity;

/// What containers share in their Pod.
pub(super) struct Pod<'a> {
    pub(super) spec: At<'a>,
    /// Those that are right, by their names.
    pub(super) volumes: BTreeMap<&'a str, &'a Value>,
    pub(super) claims: BTreeSet<&'a str>,
}

impl<'a> Pod<'a> {
    pub(super) fn new(spec: At<'a>, errors: &mut Errors) -> Self {
        let mut volumes = BTreeMap::new();
        for at in spec.each("volumes") {
            let mut wrong = Errors::default();
            let name = at.str("name");
            super::super::volume::source(&at, super::super::volume::Volume { name, is_persistent: false }, &mut wrong);
            at.require_named("name", names::dns1123_label, &mut wrong);
            if volumes.contains_key(name) {
                wrong.duplicate(&at.child("name"), name);
            }
            if wrong.is_empty() {
                volumes.insert(name, at.value);
            }
            errors.extend(wrong);
        }
        let mut claims = BTreeSet::new();
        for claim in spec.each("resourceClaims") {
            resource_claim(&claim, &mut claims, errors);
        }
        Self { volumes, claims, spec }
    }
}

fn resource_claim<'a>(at: &At<'a>, seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    let name = at.str("name");
    if !name.is_empty() && !seen.insert(name) {
        errors.duplicate(&at.child("name"), name);
    } else {
        at.require_named("name", names::dns1123_label, errors);
    }
    let sources = ["resourceClaimName", "resourceClaimTemplateName"];
    let or_null = |field: &str| at.value.get(field).cloned().unwrap_or_default();
    let shown = json!({"Name": name, "ResourceClaimName": or_null(sources[0]), "ResourceClaimTemplateName": or_null(sources[1])});
    match sources.iter().filter(|field| at.given(field).is_some()).count() {
        0 => errors.invalid(&at.path, shown, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
        1 => {}
        _ => {
            let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.invalid(&at.path, shown, why);
        }
    }
    for source in sources.iter().filter_map(|field| at.given(field)) {
        errors.judge(&source.path, source.value.clone(), names::subdomain(source.value.as_str().unwrap_or_default()));
    }
}

pub(super) fn common(at: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    at.require_named("name", names::dns1123_label, errors);
    at.require(&["image"], errors);
    at.one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    at.one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    ports(at, errors);
    environment::check(at, errors);
    file_keys(at, pod, errors);
    mounts(at, pod, errors);
    devices(at, pod, errors);
    if let Some(resources) = at.given("resources") {
        requirements(&resources, &pod.claims, resource::of_container, errors);
    }
    resize_policy(at, pod, errors);
    security::container(at, pod.spec.value.get("hostUsers") != Some(&Value::Bool(false)), errors);
}

fn ports(container: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in container.each("ports") {
        let name = port.str("name");
        if !name.is_empty() {
            let verdict = names::port_name(name);
            if verdict.is_ok() && !seen.insert(name) {
                errors.duplicate(&port.child("name"), name);
            }
            errors.judge(&port.child("name"), name, verdict);
        }
        if port.int("containerPort") == 0 {
            errors.required(&port.child("containerPort"), "");
        } else {
            port.in_range("containerPort", 1..=65535, errors);
        }
        if port.int("hostPort") != 0 {
            port.in_range("hostPort", 1..=65535, errors);
        }
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

/// A node's ports may be asked for once: by all containers, or by each that runs alone.
pub(super) fn host_ports(containers: &[At<'_>], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in containers.iter().flat_map(|container| container.each("ports")).filter(|port| port.int("hostPort") != 0) {
        let wanted = format!("{}/{}/{}", port.str("protocol"), port.str("hostIP"), port.int("hostPort"));
        if !seen.insert(wanted.clone()) {
            errors.duplicate(&port.child("hostPort"), wanted);
        }
    }
}

/// Variables from files come from a directory that the Pod shares.
fn file_keys(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    for from in container.each("env").filter_map(|one| one.given("valueFrom")?.given("fileKeyRef")) {
        let name = from.str("volumeName");
        let volume = pod.spec.each("volumes").find(|volume| volume.str("name") == name);
        match volume.map(|volume| volume.given("emptyDir").is_some()) {
            None => errors.not_found(&from.child("volumeName"), name),
            Some(false) => errors.invalid(&from.child("volumeName"), name, "referenced volume must be of type emptyDir"),
            Some(true) => {}
        }
    }
}

fn mounts(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    const OPTIONS: [&str; 3] = ["nodev", "noexec", "nosuid"];
    let all = container.child("volumeMounts");
    let devices: Vec<At<'_>> = container.each("volumeDevices").collect();
    let mut seen = BTreeSet::new();
    for at in container.each("volumeMounts") {
        at.require(&["name"], errors);
        let (name, target) = (at.str("name"), at.str("mountPath"));
        if !pod.volumes.contains_key(name) {
            errors.not_found(&at.child("name"), name);
        }
        at.require(&["mountPath"], errors);
        if !seen.insert(target) {
            errors.invalid(&at.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|device| device.str("name") == name) {
            errors.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.str("devicePath") == target) {
            errors.invalid(&at.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        if !at.str("subPath").is_empty() {
            inner_path(at.str("subPath"), &all.child("subPath"), errors);
        }
        if !at.str("subPathExpr").is_empty() {
            if !at.str("subPath").is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&at.child("subPathExpr"), at.str("subPathExpr"), why);
            }
            inner_path(at.str("subPathExpr"), &all.child("subPathExpr"), errors);
        }
        propagation(&At::new(at.value, &all), container, errors);
        for (index, option) in at.each("bindMountOptions").enumerate() {
            let text = option.value.as_str().unwrap_or_default();
            if !OPTIONS.contains(&text) {
                errors.unsupported(&option.path, text, &OPTIONS);
            }
            if at.each("bindMountOptions").take(index).any(|before| before.value == option.value) {
                errors.duplicate(&option.path, text);
            }
        }
        if at.count("bindMountOptions") > 0 && pod.volumes.get(name).is_some_and(|volume| volume.get("image").is_some()) {
            let why = "bindMountOptions may not be used with image volumes";
            errors.invalid(&at.child("bindMountOptions"), at.value["bindMountOptions"].clone(), why);
        }
    }
}

/// Kubernetes names the field as one of all mounts.
fn propagation(at: &At<'_>, container: &At<'_>, errors: &mut Errors) {
    at.supported("mountPropagation", &["Bidirectional", "HostToContainer", "None"], errors);
    let is_privileged = container.given("securityContext").is_some_and(|context| context.flag("privileged"));
    if at.str("mountPropagation") == "Bidirectional" && !is_privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&at.child("mountPropagation"), why);
    }
    at.supported("recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"], errors);
    if matches!(at.str("recursiveReadOnly"), "Enabled" | "IfPossible") {
        if !at.flag("readOnly") {
            errors.forbidden(&at.child("recursiveReadOnly"), "may only be specified when readOnly is true");
        }
        if !matches!(at.str("mountPropagation"), "" | "None") {
            let why = "may only be specified when mountPropagation is None or not specified";
            errors.forbidden(&at.child("recursiveReadOnly"), why);
        }
    }
}

fn devices(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let mounts: Vec<At<'_>> = container.each("volumeMounts").collect();
    let (mut names_seen, mut paths_seen) = (BTreeSet::new(), BTreeSet::new());
    for at in container.each("volumeDevices") {
        let (name, target) = (at.str("name"), at.str("devicePath"));
        at.require(&["name"], errors);
        if !name.is_empty() && !names_seen.insert(name) {
            errors.invalid(&at.child("name"), name, "must be unique");
        }
        match pod.volumes.get(name) {
            None => errors.not_found(&at.child("name"), name),
            Some(volume) if volume.get("persistentVolumeClaim").is_none() && volume.get("ephemeral").is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&at.child("name"), name, why);
            }
            Some(_) => {}
        }
        at.require(&["devicePath"], errors);
        let mut climbs = Errors::default();
        no_backsteps(target, &at.path, &mut climbs);
        if !climbs.is_empty() {
            errors.invalid(&at.child("devicePath"), target, "can not contain backsteps ('..')");
        } else if !paths_seen.insert(target) {
            errors.invalid(&at.child("devicePath"), target, "must be unique");
        }
        if mounts.iter().any(|mount| mount.str("name") == name) {
            errors.invalid(&at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.str("mountPath") == target) {
            errors.invalid(&at.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
    }
}

fn resize_policy(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let path = container.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for policy in container.each("resizePolicy") {
        let (resource, restart) = (policy.str("resourceName"), policy.str("restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(&policy.path, resource);
        }
        for (found, known) in [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            if found.is_empty() {
                errors.required(&path, "");
            } else if !known.contains(&found) {
                errors.unsupported(&path, found, &known);
            }
        }
        if pod.spec.str("restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(&path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// The rules by which a container is started anew, where its own differ from its Pod's (KEP-5307).
pub(super) fn restart_rules(at: &At<'_>, errors: &mut Errors) {
    const RULES_MAX: usize = 20;
    const VALUES_MAX: usize = 255;
    let rules = at.count("restartPolicyRules");
    at.supported("restartPolicy", &["Always", "Never", "OnFailure"], errors);
    if at.given("restartPolicy").is_none() && rules > 0 {
        errors.required(&at.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules > RULES_MAX {
        errors.add(&at.child("restartPolicyRules"), Problem::TooMany { found: rules, most: RULES_MAX });
    }
    for rule in at.each("restartPolicyRules") {
        let action = rule.str("action");
        if !["Restart", "RestartAllContainers"].contains(&action) {
            errors.unsupported(&rule.child("action"), action, &["Restart", "RestartAllContainers"]);
        }
        let Some(codes) = rule.given("exitCodes") else {
            errors.required(&rule.child("exitCodes"), "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.str("operator")) {
            errors.unsupported(&codes.child("operator"), codes.str("operator"), &["In", "NotIn"]);
        }
        if codes.count("values") > VALUES_MAX {
            errors.add(&codes.child("values"), Problem::TooMany { found: codes.count("values"), most: VALUES_MAX });
        }
    }
}

/// Limits and requests (`validateResourceRequirements`).
pub(super) fn requirements(at: &At<'_>, claims: &BTreeSet<&str>, named: fn(&str, &Path, &mut Errors), errors: &mut Errors) {
    let amount = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    let (mut has_huge, mut has_plain) = (false, false);
    for kind in ["limits", "requests"] {
        for (name, value) in at.entries(kind) {
            let path = at.child(kind).key(name);
            named(name, &path, errors);
            resource::amount(name, value, &path, errors);
            has_huge |= resource::is_huge_pages(name);
            has_plain |= name == "cpu" || name == "memory";
        }
    }
    for (name, value) in at.entries("requests") {
        let may_differ = resource::may_be_overcommitted(name);
        let Some(limit) = at.value.get("limits").and_then(|limits| limits.get(name)) else {
            if !may_differ {
                errors.required(&at.child("limits"), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let shown = limit.as_str().unwrap_or_default();
        if amount(value) != amount(limit) && !may_differ {
            errors.invalid(&at.child("requests"), value.clone(), &format!("must be equal to {name} limit of {shown}"));
        } else if amount(value) > amount(limit) {
            errors.invalid(&at.child("requests"), value.clone(), &format!("must be less than or equal to {name} limit of {shown}"));
        }
    }
    if has_huge && !has_plain {
        errors.forbidden(&at.path, "HugePages require cpu or memory");
    }
    for claim in at.each("claims") {
        let name = claim.str("name");
        if name.is_empty() {
            errors.required(&claim.path, "");
        }
        claim.named("request", names::dns1123_label, errors);
        if !name.is_empty() && !claims.contains(name) {
            let all: Vec<&str> = claims.iter().copied().collect();
            let rest = if all.is_empty() { " which is empty".to_owned() } else { format!(": {}", all.join(", ")) };
            errors.add(&claim.path, Problem::Unknown(name.into(), format!("must be one of the names in pod.spec.resourceClaims{rest}")));
        }
    }
}
