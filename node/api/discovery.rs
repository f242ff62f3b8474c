//! Discovery: which groups, versions and resources there are, in the legacy and the aggregated form. `/version`.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use skein_object::Status;
use skein_object::registry::{Resource, Subresource};

use crate::aggregate::Remote;
use crate::{Body, respond};

/// The Kubernetes version whose API this is.
pub(crate) const VERSION: (&str, &str, &str) = ("1", "37", "v1.37.2+skein");

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) fn version() -> Response<Body> {
    let (major, minor, full) = VERSION;
    respond::json(
        200,
        &json!({
            "major": major, "minor": minor, "gitVersion": full, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
        }),
    )
}

/// `/api`
pub(crate) fn core(headers: &HeaderMap, served: &[Arc<Resource>]) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(served, &[], |group| group.is_empty());
    }
    respond::json(
        200,
        &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
    )
}

/// `/apis`
pub(crate) fn groups(headers: &HeaderMap, served: &[Arc<Resource>], remotes: &[Remote]) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(served, remotes, |group| !group.is_empty());
    }
    let groups = with_remotes(by_group(served), remotes);
    let groups: Vec<Value> = groups.iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
    respond::json(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/GROUP`
pub(crate) fn group(name: &str, served: &[Arc<Resource>], remotes: &[Remote]) -> Result<Response<Body>, Status> {
    let groups = with_remotes(by_group(served), remotes);
    let group = groups.iter().find(|g| g.name == name).ok_or_else(Status::page_not_found)?;
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(value), Value::Object(fields)) = (value.as_object_mut(), group_value(group)) {
        value.extend(fields);
    }
    Ok(respond::json(200, &value))
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub(crate) fn resources(group: &str, version: &str, served: &[Arc<Resource>]) -> Result<Response<Body>, Status> {
    let found: Vec<&Arc<Resource>> = served.iter().filter(|r| r.group == group && r.version == version).collect();
    let Some(first) = found.first() else { return Err(Status::page_not_found()) };
    let mut resources = Vec::new();
    for resource in &found {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular(), "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        add_names(&mut entry, resource);
        resources.push(entry);
        for subresource in resource.subresources.iter() {
            let (group, version, kind) = subresource_kind(resource, *subresource);
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name()), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": subresource_verbs(*subresource),
            });
            if (group, version) != (resource.group, resource.version) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            resources.push(entry);
        }
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = first.api_version().into();
    list["resources"] = resources.into();
    Ok(respond::json(200, &list))
}

fn add_names(entry: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.contains("g=apidiscovery.k8s.io") && accept.contains("v=v2;") | accept.ends_with("v=v2"))
}

/// A group with its versions, the preferred one first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Resource>)>,
}

/// The order of the built-in groups (`groupPriorityMinimum` of their APIServices); others come behind.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

fn by_group(served: &[Arc<Resource>]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for resource in served {
        let at = groups.iter().position(|g| g.name == resource.group).unwrap_or_else(|| {
            groups.push(Group { name: resource.group, versions: Vec::new() });
            groups.len() - 1
        });
        let versions = &mut groups[at].versions;
        match versions.iter_mut().find(|(version, _)| *version == resource.version) {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((resource.version, vec![resource])),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|(version, _)| std::cmp::Reverse(priority(version)));
    }
    groups.sort_by_key(|group| ORDER.iter().position(|name| *name == group.name).unwrap_or(ORDER.len()));
    groups
}

/// Kubernetes' order of versions: `v2` before `v1` before `v1beta1` before `v1alpha1` before anything else
/// (apimachinery, `version.CompareKubeAwareVersionStrings`).
fn priority(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (rank, stage) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return number(major).zip(number(minor)).map_or((0, 0, 0), |(major, minor)| (rank, major, minor));
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

fn group_value(group: &Group<'_>) -> Value {
    let version = |(version, _): &(&str, Vec<&Resource>)| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let preferred = versions.first().cloned();
    json!({"name": group.name, "versions": versions, "preferredVersion": preferred})
}

/// The groups with those of other servers: a version that is served here stays.
fn with_remotes<'a>(mut groups: Vec<Group<'a>>, remotes: &'a [Remote]) -> Vec<Group<'a>> {
    for remote in remotes {
        let at = groups.iter().position(|g| g.name == remote.group).unwrap_or_else(|| {
            groups.push(Group { name: &remote.group, versions: Vec::new() });
            groups.len() - 1
        });
        if groups[at].versions.iter().all(|(version, _)| *version != remote.version) {
            groups[at].versions.push((&remote.version, Vec::new()));
        }
    }
    groups
}

/// What a server says of its resources, in the aggregated form.
fn aggregated_remote(remote: &Remote) -> Value {
    let Some(list) = &remote.resources else {
        return json!({"version": remote.version, "resources": [], "freshness": "Stale"});
    };
    let kind = |entry: &Value| {
        let or = |field: &str, own: &str| entry[field].as_str().filter(|text| !text.is_empty()).unwrap_or(own).to_string();
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": entry["kind"]})
    };
    let mut resources: Vec<Value> = Vec::new();
    for entry in list.iter().filter(|entry| entry["name"].as_str().is_some_and(|name| !name.contains('/'))) {
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut resource = json!({"resource": entry["name"], "responseKind": kind(entry), "scope": scope,
            "singularResource": entry["singularName"], "verbs": entry["verbs"]});
        for field in ["shortNames", "categories"] {
            if entry[field].is_array() {
                resource[field] = entry[field].clone();
            }
        }
        let prefix = format!("{}/", entry["name"].as_str().unwrap_or_default());
        let parts = list.iter().filter_map(|part| Some((part["name"].as_str()?.strip_prefix(&prefix)?, part)));
        let parts: Vec<Value> =
            parts.map(|(name, part)| json!({"subresource": name, "responseKind": kind(part), "verbs": part["verbs"]})).collect();
        if !parts.is_empty() {
            resource["subresources"] = parts.into();
        }
        resources.push(resource);
    }
    json!({"version": remote.version, "resources": resources, "freshness": "Current"})
}

fn aggregated(served: &[Arc<Resource>], remotes: &[Remote], wanted: impl Fn(&str) -> bool) -> Response<Body> {
    let groups = with_remotes(by_group(served), remotes);
    let items: Vec<Value> = groups.iter().filter(|g| wanted(g.name)).map(|group| aggregated_group(group, remotes)).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = respond::json(200, &list);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_group(group: &Group<'_>, remotes: &[Remote]) -> Value {
    let version = |(version, resources): &(&str, Vec<&Resource>)| {
        let remote = remotes.iter().find(|remote| remote.group == group.name && remote.version == *version);
        if let Some(remote) = remote.filter(|_| resources.is_empty()) {
            return aggregated_remote(remote);
        }
        let mut resources = resources.clone();
        resources.sort_by_key(|r| r.plural);
        let resources: Vec<Value> = resources.into_iter().map(aggregated_resource).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    };
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

/// A kind's group and version, left out by Kubernetes where they are those of the built-in list that it stands in.
fn beside<'a>(resource: &Resource, group: &'a str, version: &'a str) -> (&'a str, &'a str) {
    let is_same = resource.custom.is_none() && (group, version) == (resource.group, resource.version);
    if is_same { ("", "") } else { (group, version) }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut subresources: Vec<Subresource> = resource.subresources.to_vec();
    subresources.sort_by_key(|s| s.name());
    let subresources: Vec<Value> = subresources
        .iter()
        .map(|subresource| {
            let (group, version, kind) = subresource_kind(resource, *subresource);
            let (group, version) = beside(resource, group, version);
            json!({
                "subresource": subresource.name(), "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": subresource_verbs(*subresource),
            })
        })
        .collect();
    let own = beside(resource, resource.group, resource.version);
    let mut entry = json!({
        "resource": resource.plural, "responseKind": {"group": own.0, "version": own.1, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": resource.singular(),
        "verbs": resource.verbs(),
    });
    add_names(&mut entry, resource);
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn subresource_kind(resource: &Resource, subresource: Subresource) -> (&'static str, &'static str, &'static str) {
    match subresource {
        Subresource::Scale => ("autoscaling", "v1", "Scale"),
        Subresource::Binding => ("", "v1", "Binding"),
        Subresource::Eviction => ("policy", "v1", "Eviction"),
        Subresource::Exec => ("", "v1", "PodExecOptions"),
        Subresource::Attach => ("", "v1", "PodAttachOptions"),
        Subresource::PortForward => ("", "v1", "PodPortForwardOptions"),
        Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
        Subresource::Proxy => match resource.kind {
            "Node" => ("", "v1", "NodeProxyOptions"),
            "Service" => ("", "v1", "ServiceProxyOptions"),
            _ => ("", "v1", "PodProxyOptions"),
        },
        Subresource::Status
        | Subresource::Log
        | Subresource::Finalize
        | Subresource::Approval
        | Subresource::EphemeralContainers
        | Subresource::Resize => (resource.group, resource.version, resource.kind),
    }
}

fn subresource_verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status | Subresource::Scale | Subresource::Approval | Subresource::EphemeralContainers | Subresource::Resize => {
            &["get", "patch", "update"]
        }
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        Subresource::Log => &["get"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
        Subresource::Finalize => &["update"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefers_what_is_stable() {
        let mut versions = vec!["v1alpha1", "foo", "v1beta2", "v1", "v2", "v1beta1", "v2alpha1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "v1alpha1", "foo"]);
    }
}
