//! Discovery: which groups, versions and resources there are, in the legacy and the aggregated form. `/version`.

use std::collections::BTreeMap;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use skein_object::Status;
use skein_object::registry::{self, Resource, Subresource};

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
pub(crate) fn core(headers: &HeaderMap) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(|group| group.is_empty());
    }
    respond::json(200, &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

/// `/apis`
pub(crate) fn groups(headers: &HeaderMap) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(|group| !group.is_empty());
    }
    let groups: Vec<Value> = by_group().keys().filter(|g| !g.is_empty()).map(|g| group_value(g)).collect();
    respond::json(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/GROUP`
pub(crate) fn group(name: &str) -> Result<Response<Body>, Status> {
    if !by_group().contains_key(name) {
        return Err(Status::page_not_found());
    }
    let mut value = group_value(name);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(respond::json(200, &value))
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub(crate) fn resources(group: &str, version: &str) -> Result<Response<Body>, Status> {
    let found: Vec<&Resource> = registry::all().iter().filter(|r| r.group == group && r.version == version).collect();
    let Some(first) = found.first() else { return Err(Status::page_not_found()) };
    let mut resources = Vec::new();
    for resource in &found {
        resources.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(), "shortNames": resource.short_names, "categories": resource.categories,
        }));
        for subresource in resource.subresources {
            let (group, version, kind) = subresource_kind(resource, *subresource);
            resources.push(json!({
                "name": format!("{}/{}", resource.plural, subresource.name()), "singularName": "", "namespaced": resource.namespaced,
                "group": group, "version": version, "kind": kind, "verbs": subresource_verbs(*subresource),
            }));
        }
    }
    Ok(respond::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": resources}),
    ))
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.contains("g=apidiscovery.k8s.io") && accept.contains("v=v2;") | accept.ends_with("v=v2"))
}

fn by_group() -> BTreeMap<&'static str, Vec<&'static Resource>> {
    let mut groups: BTreeMap<&str, Vec<&Resource>> = BTreeMap::new();
    for resource in registry::all() {
        groups.entry(resource.group).or_default().push(resource);
    }
    groups
}

fn group_value(name: &str) -> Value {
    let version = by_group().get(name).and_then(|r| r.first()).map(|r| r.version).unwrap_or_default();
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn aggregated(wanted: impl Fn(&str) -> bool) -> Response<Body> {
    let groups = by_group();
    let items: Vec<Value> =
        groups.iter().filter(|(name, _)| wanted(name)).map(|(name, resources)| aggregated_group(name, resources)).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = respond::json(200, &list);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_group(name: &str, resources: &[&Resource]) -> Value {
    let version = resources.first().map(|r| r.version).unwrap_or_default();
    let resources: Vec<Value> = resources.iter().map(|r| aggregated_resource(r)).collect();
    let metadata = if name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": name, "creationTimestamp": null}) };
    json!({"metadata": metadata, "versions": [{"version": version, "resources": resources, "freshness": "Current"}]})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|subresource| {
            let (group, version, kind) = subresource_kind(resource, *subresource);
            json!({
                "subresource": subresource.name(), "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": subresource_verbs(*subresource),
            })
        })
        .collect();
    json!({
        "resource": resource.plural, "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": resource.singular,
        "verbs": resource.verbs(), "shortNames": resource.short_names, "categories": resource.categories, "subresources": subresources,
    })
}

fn subresource_kind(resource: &Resource, subresource: Subresource) -> (&'static str, &'static str, &'static str) {
    match subresource {
        Subresource::Scale => ("autoscaling", "v1", "Scale"),
        Subresource::Binding => ("", "v1", "Binding"),
        Subresource::Eviction => ("policy", "v1", "Eviction"),
        Subresource::Exec => ("", "v1", "PodExecOptions"),
        Subresource::Attach => ("", "v1", "PodAttachOptions"),
        Subresource::PortForward => ("", "v1", "PodPortForwardOptions"),
        Subresource::Status | Subresource::Log | Subresource::Finalize => (resource.group, resource.version, resource.kind),
    }
}

fn subresource_verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status | Subresource::Scale => &["get", "patch", "update"],
        Subresource::Log => &["get"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Binding | Subresource::Eviction => &["create"],
        Subresource::Finalize => &["update"],
    }
}
