//! Pods and Pod templates (`ValidatePodSpec`).

pub(super) mod affinity;
mod container;
pub(super) mod environment;
mod handler;
mod security;

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, ip};
use super::{list, non_negative, resource, text};
use crate::field::{Errors, Path, Problem};
use crate::names;

pub fn pod(pod: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let Some(spec) = pod.get("spec") else {
        errors.required(&path.child("containers"), "");
        return;
    };
    match old {
        None => {
            pod_spec(spec, &path, errors);
            if !list(spec, "ephemeralContainers").is_empty() {
                errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
                ephemeral(pod, &Value::Null, errors);
            }
        }
        Some(old) => update(spec, old.get("spec").unwrap_or(&Value::Null), errors),
    }
}

/// A Pod's specification is fixed but for a few fields (ValidatePodUpdate).
fn update(spec: &Value, old: &Value, errors: &mut Errors) {
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").iter().any(|known| known["name"] == gate["name"]) {
            let path = Path::new("spec").child("schedulingGates").index(index).child("name");
            errors.forbidden(&path, &format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name")));
        }
    }
    let mut expected = old.clone();
    if let (Some(expected), Some(spec)) = (expected.as_object_mut(), spec.as_object()) {
        for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates"] {
            match spec.get(field) {
                Some(value) => expected.insert(field.into(), value.clone()),
                None => expected.shift_remove(field),
            };
        }
        for containers in ["containers", "initContainers"] {
            let images = spec.get(containers).and_then(Value::as_array).into_iter().flatten().map(|c| c.get("image").cloned());
            let targets = expected.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten();
            for (target, image) in targets.zip(images) {
                target["image"] = image.unwrap_or_default();
            }
        }
    }
    if list(spec, "containers").len() != list(old, "containers").len() {
        errors.forbidden(&Path::new("spec").child("containers"), "pod updates may not add or remove containers");
    } else if *spec != expected {
        errors.forbidden(
            &Path::new("spec"),
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

/// Ephemeral containers are only ever added (KEP-277), with a name and an image, for a container that is there.
pub fn ephemeral(pod: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("ephemeralContainers");
    let (spec, known) = (&pod["spec"], list(&old["spec"], "ephemeralContainers"));
    for before in known {
        let name = text(before, "name");
        match list(spec, "ephemeralContainers").iter().find(|now| now["name"] == before["name"]) {
            None => errors.forbidden(&path, &format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(now) if now != before => {
                errors.forbidden(&path, &format!("existing ephemeral containers \"{name}\" may not be changed\n"))
            }
            Some(_) => {}
        }
    }
    let others: Vec<&str> = ["containers", "initContainers"].iter().flat_map(|field| list(spec, field)).map(|c| text(c, "name")).collect();
    let mut seen = BTreeSet::new();
    for (index, one) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        let name = text(one, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !seen.insert(name) || others.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        if text(one, "image").is_empty() {
            errors.required(&path.child("image"), "");
        }
        let target = text(one, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
            let is_said = one.get(field).is_some_and(|value| value.as_array().map_or(!value.is_null(), |list| !list.is_empty()));
            if is_said {
                errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

pub(crate) fn pod_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = At::new(spec, path);
    let pod = container::Pod::new(at.clone(), errors);
    containers(&pod, errors);
    init_containers(&pod, errors);
    if let Some(resources) = at.given("resources") {
        if resources.given("claims").is_some() {
            errors.forbidden(&resources.child("claims"), "claims may not be set for Resources at pod-level");
        }
        container::requirements(&resources, &pod.claims, resource::of_pod, errors);
    }
    host_network(&at, errors);
    at.one_of("restartPolicy", &["Always", "OnFailure", "Never"], errors);
    at.one_of("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    non_negative(spec, "terminationGracePeriodSeconds", path, errors);
    crate::meta::validate_labels(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(&at, errors);
    if at.flag("shareProcessNamespace") && at.flag("hostPID") {
        errors.invalid(&at.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    affinity::check(&at, errors);
    dns(&at, errors);
    for gate in at.each("readinessGates") {
        errors.judge(&gate.child("conditionType"), gate.str("conditionType"), names::qualified_name(gate.str("conditionType")));
    }
    let mut gates = BTreeSet::new();
    for gate in at.each("schedulingGates") {
        errors.judge(&gate.path, gate.str("name"), names::qualified_name(gate.str("name")));
        if !gates.insert(gate.str("name")) {
            errors.duplicate(&gate.path, gate.str("name"));
        }
    }
    host_users(&at, errors);
    names_of(&at, errors);
    at.in_range("activeDeadlineSeconds", 1..=i64::from(i32::MAX), errors);
    for alias in at.each("hostAliases") {
        ip(alias.str("ip"), &alias.child("ip"), errors);
        for host in alias.each("hostnames") {
            errors.judge(&host.path, host.value.clone(), names::subdomain(host.value.as_str().unwrap_or_default()));
        }
    }
    at.supported("preemptionPolicy", &["PreemptLowerPriority", "Never"], errors);
    if let Some(overhead) = at.given("overhead") {
        for (name, amount) in overhead.value.as_object().into_iter().flatten() {
            let path = overhead.path.child("limits").key(name);
            resource::of_container(name, &path, errors);
            resource::amount(name, amount, &path, errors);
        }
    }
    operating_system(&at, errors);
    if let Some(group) = at.given("schedulingGroup") {
        match group.given("podGroupName") {
            None => errors.invalid(&group.child("podGroupName"), Value::Null, "must specify one of: `podGroupName`"),
            Some(name) => errors.judge(&name.path, name.value.clone(), names::subdomain(name.value.as_str().unwrap_or_default())),
        }
    }
}

fn containers(pod: &container::Pod<'_>, errors: &mut Errors) {
    let all: Vec<At<'_>> = pod.spec.each("containers").collect();
    if all.is_empty() {
        errors.required(&pod.spec.child("containers"), "");
    }
    let mut seen = BTreeSet::new();
    for at in &all {
        container::common(at, pod, errors);
        if !seen.insert(at.str("name")) {
            errors.duplicate(&at.child("name"), at.str("name"));
        }
        handler::check(at, &pod.spec, errors);
        container::restart_rules(at, errors);
    }
    container::host_ports(&all, errors);
}

fn init_containers(pod: &container::Pod<'_>, errors: &mut Errors) {
    let mut seen: BTreeSet<&str> = pod.spec.each("containers").map(|at| at.str("name")).collect();
    for at in pod.spec.each("initContainers") {
        container::common(&at, pod, errors);
        if at.given("restartPolicy").is_some() || at.count("restartPolicyRules") > 0 {
            container::restart_rules(&at, errors);
        }
        if !at.str("name").is_empty() && !seen.insert(at.str("name")) {
            errors.duplicate(&at.child("name"), at.str("name"));
        }
        container::host_ports(std::slice::from_ref(&at), errors);
        if at.str("restartPolicy") == "Always" {
            handler::check(&at, &pod.spec, errors);
            continue;
        }
        for lasting in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if at.given(lasting).is_some() {
                errors.forbidden(&at.child(lasting), "may not be set for init containers without restartPolicy=Always");
            }
        }
        for policy in at.each("resizePolicy").filter(|policy| policy.str("restartPolicy") == "RestartContainer") {
            let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(&policy.child("restartPolicy"), "RestartContainer", why);
        }
    }
}

/// On the node's network a container's ports are the node's.
fn host_network(at: &At<'_>, errors: &mut Errors) {
    if !at.flag("hostNetwork") {
        return;
    }
    for port in at.each("containers").flat_map(|container| container.each("ports")) {
        let (host, own) = (port.int("hostPort"), port.int("containerPort"));
        if host != 0 && host != own {
            errors.invalid(&port.child("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn dns(at: &At<'_>, errors: &mut Errors) {
    const SERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    const SEARCH_BYTES_MAX: usize = 2048;
    let (config, path) = (at.given("dnsConfig"), at.child("dnsConfig"));
    if at.str("dnsPolicy") == "None" {
        match &config {
            None => return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None"),
            Some(config) if config.count("nameservers") == 0 => {
                let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                return errors.required(&path.child("nameservers"), why);
            }
            Some(_) => {}
        }
    }
    let Some(config) = config else { return };
    if config.count("nameservers") > SERVERS_MAX {
        let why = format!("must not have more than {SERVERS_MAX} nameservers");
        errors.invalid(&path.child("nameservers"), config.value["nameservers"].clone(), &why);
    }
    for server in config.each("nameservers") {
        ip(server.value.as_str().unwrap_or_default(), &server.path, errors);
    }
    let searches: Vec<&str> = config.each("searches").filter_map(|search| search.value.as_str()).collect();
    let shown = || config.value["searches"].clone();
    if searches.len() > SEARCHES_MAX {
        errors.invalid(&path.child("searches"), shown(), &format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        let why = format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        errors.invalid(&path.child("searches"), shown(), &why);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        errors.judge(&path.child("searches").index(index), name, names::subdomain_with_underscores(name));
    }
    for option in config.each("options").filter(|option| option.str("name").is_empty()) {
        errors.required(&option.path, "must not be empty");
    }
}

/// Users of its own go with few namespaces of the node.
fn host_users(at: &At<'_>, errors: &mut Errors) {
    if at.value.get("hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if at.flag(field) {
            errors.forbidden(&at.child(shown), "when `hostUsers` is false");
        }
    }
    for one in ["initContainers", "containers"].iter().flat_map(|field| at.each(field)) {
        if one.count("volumeDevices") > 0 {
            errors.forbidden(&one.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
}

/// The Pod's own names, and those of what it refers to.
fn names_of(at: &At<'_>, errors: &mut Errors) {
    const HOSTNAME_BYTES_MAX: usize = 64;
    if let Some(name) = at.given("hostnameOverride") {
        for (field, why) in [
            ("setHostnameAsFQDN", "may not be specified when setHostnameAsFQDN is true"),
            ("hostNetwork", "may not be specified when hostNetwork is true"),
        ] {
            if at.flag(field) {
                errors.forbidden(&name.path, why);
            }
        }
        let text = name.value.as_str().unwrap_or_default();
        if text.len() > HOSTNAME_BYTES_MAX {
            errors.add(&name.path, Problem::TooLong(HOSTNAME_BYTES_MAX));
        }
        errors.judge(&name.path, text, names::subdomain(text));
    }
    for field in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        at.named(field, names::subdomain, errors);
    }
    for field in ["hostname", "subdomain"] {
        at.named(field, names::dns1123_label, errors);
    }
}

fn operating_system(at: &At<'_>, errors: &mut Errors) {
    let all = ["initContainers", "containers"].into_iter().flat_map(|field| at.each(field));
    let mut contexts = std::iter::once(at.clone()).chain(all).filter_map(|one| one.given("securityContext"));
    let is_host_process = contexts.any(|context| context.given("windowsOptions").is_some_and(|options| options.flag("hostProcess")));
    if is_host_process && !at.flag("hostNetwork") {
        errors.invalid(&at.child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
    let Some(os) = at.given("os") else { return };
    match os.str("name") {
        "" => errors.required(&os.child("name"), ""),
        "linux" => {
            let containers = ["initContainers", "containers"].into_iter().flat_map(|field| at.each(field));
            for context in std::iter::once(at.clone()).chain(containers).filter_map(|one| one.given("securityContext")) {
                if let Some(options) = context.given("windowsOptions") {
                    errors.forbidden(&options.path, "windows options cannot be set for a linux pod");
                }
            }
        }
        "windows" => {}
        other => errors.unsupported(&os.path, other, &["linux", "windows"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mut object: Value, expected: &str) {
        crate::defaults::pod::pod(&mut object);
        let mut errors = Errors::default();
        pod(&object, None, &mut errors);
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn explains_what_is_wrong() {
        check(json!({"spec": {"containers": []}}), "spec.containers: Required value");
        check(json!({"spec": {"containers": [{"name": "a"}]}}), "spec.containers[0].image: Required value");
        check(
            json!({"spec": {"containers": [{"name": "A", "image": "x", "imagePullPolicy": "Sometimes"}]}}).clone(),
            "[spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"]",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x"}], "initContainers": [
                {"name": "i", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}},
                {"name": "s", "image": "x", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}}]}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        );
    }
}
