//! What Kubernetes answers: requests, the answers that kube-apiserver v1.37.2 gave to them, and how two answers are
//! compared.
//!
//! ```text
//!   objects.json ──▶ cases() ──▶ skein-record, against Kubernetes ──▶ answers.json
//!                       └──────▶ the test, against Skein ──compare──▶ meant.txt, open.txt
//! ```
//!
//! Requests change nothing: whatever would be written is a dry run. So their order does not matter, and any node may
//! be asked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use skein_object::schema::definition_of;

pub use answer::{Answer, differences, normalised};
pub use server::Server;

mod answer;
mod fields;
mod patches;
mod server;

/// The namespace in which requests are made; it must be there.
pub const NAMESPACE: &str = "conformance";

const OBJECTS: &str = include_str!("objects.json");

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A minimal valid object of a kind, and the collection it belongs to.
#[derive(Clone, Debug, Deserialize)]
struct Sample {
    path: String,
    object: Value,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub method: &'static str,
    pub path: String,
    pub accept: &'static str,
    pub content_type: &'static str,
    pub body: Option<Value>,
    /// The case of which this is a variant: only what is answered beyond it counts.
    pub base: Option<String>,
}

/// A minimal valid object of every kind.
pub fn samples() -> Vec<Value> {
    kept().into_iter().map(|sample| sample.object).collect()
}

fn kept() -> Vec<Sample> {
    serde_json::from_str(OBJECTS).expect("objects.json is a list of samples")
}

/// Every case, generated from the samples.
pub fn cases() -> Vec<Case> {
    let samples = kept();
    let mut cases: Vec<Case> = samples.iter().flat_map(|sample| of_sample(sample).into_iter().chain(of_fields(sample))).collect();
    cases.extend(patches::cases());
    for path in ["/api", "/apis"] {
        cases.push(Case { accept: DISCOVERY, ..get(&format!("aggregated discovery {path}"), path) });
        cases.push(get(&format!("discovery {path}"), path));
    }
    let mut groups: Vec<String> = samples.iter().map(|s| group_path(&s.path)).collect();
    groups.sort();
    groups.dedup();
    cases.extend(groups.iter().map(|path| get(&format!("discovery {path}"), path)));
    cases.extend(["/nonsense", "/apis/nonsense", "/apis/nonsense/v1", "/api/v2"].iter().map(|path| get(&format!("get {path}"), path)));
    cases
}

/// What was answered to all cases, in their order, without what their bases were answered alike.
pub fn reduced(cases: &[Case], answers: Vec<Answer>) -> Vec<Answer> {
    let bases: BTreeMap<&str, &Answer> = cases.iter().map(|case| case.name.as_str()).zip(&answers).collect();
    let beyond = |case: &Case, answer: &Answer| match &case.base {
        Some(base) => answer.clone().beyond(bases[base.as_str()]),
        None => answer.clone(),
    };
    cases.iter().zip(&answers).map(|(case, answer)| beyond(case, answer)).collect()
}

/// `/apis/apps/v1/namespaces/n/deployments` → `/apis/apps/v1`.
fn group_path(path: &str) -> String {
    let parts = if path.starts_with("/api/") { 3 } else { 4 };
    path.split('/').take(parts).collect::<Vec<_>>().join("/")
}

fn get(name: &str, path: &str) -> Case {
    Case {
        name: name.into(),
        method: "GET",
        path: path.into(),
        accept: "application/json",
        content_type: "application/json",
        body: None,
        base: None,
    }
}

impl Sample {
    /// `apps/v1 Deployment`
    fn kind(&self) -> String {
        format!("{} {}", self.text("/apiVersion"), self.text("/kind"))
    }

    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// One request for each field and value.
fn of_fields(sample: &Sample) -> Vec<Case> {
    let (group, version) = sample.text("/apiVersion").rsplit_once('/').unwrap_or(("", sample.text("/apiVersion")));
    let definition = definition_of(group, version, sample.text("/kind")).unwrap_or_else(|| panic!("{} has no schema", sample.kind()));
    let path = format!("{}?dryRun=All&fieldManager=test", sample.path);
    let case = |variant: fields::Variant| Case {
        method: "POST",
        body: Some(variant.object),
        base: Some(format!("{}: create", sample.kind())),
        ..get(&format!("{}: {}", sample.kind(), variant.name), &path)
    };
    fields::variants(definition, &sample.object).into_iter().map(case).collect()
}

fn of_sample(sample: &Sample) -> Vec<Case> {
    let (path, object, kind) = (&sample.path, &sample.object, sample.kind());
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let about = |what: &str| get(&format!("{kind}: {what}"), path);
    let post = |what: &str, query: &str, body: Value| Case {
        method: "POST",
        path: format!("{path}?dryRun=All&fieldManager=test{query}"),
        body: Some(body),
        ..about(what)
    };
    let with = |pointer: &str, value: Value| {
        let mut changed = object.clone();
        match pointer.rsplit_once('/') {
            Some((parent, field)) => changed.pointer_mut(parent).expect("samples have metadata")[field] = value,
            None => changed = value,
        }
        changed
    };
    let bare = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {"name": name}});
    let one = format!("{path}/{name}");
    let at = |what: &str, method: &'static str, path: String| Case { method, path, ..about(what) };
    vec![
        post("create", "", object.clone()),
        post("create with labels and annotations", "", with("/metadata/labels", json!({"a": "b"}))),
        post("create without a name", "", with("/metadata", json!({}))),
        post("create with a bad name", "", with("/metadata/name", json!("Bad Name!"))),
        post("create with a bad label", "", with("/metadata/labels", json!({"a b": "c d"}))),
        post("create with a version", "", with("/metadata/resourceVersion", json!("1"))),
        post("create with nothing said", "", bare),
        post("create with an unknown field, strictly", "&fieldValidation=Strict", with("/unknownField", json!(1))),
        post("create with metadata of a wrong type", "", with("/metadata", json!("x"))),
        post("create of another kind", "", with("/kind", json!("Nonsense"))),
        Case { accept: TABLE, ..post("create, as a table", "", object.clone()) },
        Case { accept: TABLE, ..at("columns", "GET", format!("{path}?limit=1")) },
        Case {
            content_type: "application/apply-patch+yaml",
            body: Some(object.clone()),
            ..at("apply", "PATCH", format!("{one}?dryRun=All&fieldManager=test&force=true"))
        },
        Case {
            content_type: "application/apply-patch+yaml",
            body: Some(object.clone()),
            ..at("apply without a manager", "PATCH", format!("{one}?dryRun=All"))
        },
        Case { body: Some(object.clone()), ..at("update of what is missing", "PUT", format!("{path}/{name}?dryRun=All")) },
        Case {
            content_type: "application/merge-patch+json",
            body: Some(json!({})),
            ..at("patch of what is missing", "PATCH", format!("{path}/missing"))
        },
        Case { content_type: "text/plain", body: Some(json!({})), ..at("patch of an unknown type", "PATCH", format!("{path}/missing")) },
        at("get of what is missing", "GET", format!("{path}/missing")),
        at("delete of what is missing", "DELETE", format!("{path}/missing")),
        at("list by an unknown field", "GET", format!("{path}?fieldSelector=nonsense%3D1")),
        at("list by a malformed selector", "GET", format!("{path}?labelSelector=a%3D%3D%3Db")),
        at("watch from a malformed version", "GET", format!("{path}?watch=1&resourceVersion=x")),
    ]
}
