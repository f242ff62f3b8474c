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

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    method: &'static str,
    path: String,
    accept: &'static str,
    content_type: &'static str,
    body: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

/// Where to ask, and as whom: files for curl.
pub struct Server<'a> {
    pub url: String,
    pub authority: &'a Path,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

/// Every case, generated from the samples.
pub fn cases() -> Vec<Case> {
    let samples: Vec<Sample> = serde_json::from_str(OBJECTS).expect("objects.json is a list of samples");
    let mut cases: Vec<Case> = samples.iter().flat_map(of_sample).collect();
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

/// `/apis/apps/v1/namespaces/n/deployments` → `/apis/apps/v1`.
fn group_path(path: &str) -> String {
    let parts = if path.starts_with("/api/") { 3 } else { 4 };
    path.split('/').take(parts).collect::<Vec<_>>().join("/")
}

fn get(name: &str, path: &str) -> Case {
    Case { name: name.into(), method: "GET", path: path.into(), accept: "application/json", content_type: "application/json", body: None }
}

fn of_sample(sample: &Sample) -> Vec<Case> {
    let (path, object) = (&sample.path, &sample.object);
    let kind = format!("{} {}", object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
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

// === impl Server ===

impl Server<'_> {
    /// Asks, by curl; what was answered is normalised.
    pub fn ask(&self, case: &Case) -> Answer {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-X", case.method, "-w", "\n%{http_code}"]);
        command.arg("--cacert").arg(self.authority).arg("--cert").arg(self.certificate).arg("--key").arg(self.key);
        command.args(["-H", &format!("Accept: {}", case.accept)]);
        if let Some(body) = &case.body {
            command.args(["-H", &format!("Content-Type: {}", case.content_type), "--data-binary", &body.to_string()]);
        }
        let output = command.arg(format!("{}{}", self.url, case.path)).stdin(Stdio::null()).output().expect("curl can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (content, code) = text.rsplit_once('\n').unwrap_or((&text, "0"));
        let body = serde_json::from_str(content).unwrap_or_else(|_| content.trim().into());
        Answer { code: code.trim().parse().unwrap_or(0), body: normalised(body) }
    }
}

/// An answer without what differs each time: ids, times, versions, addresses, generated names.
fn normalised(mut body: Value) -> Value {
    if body["kind"] == "Table" {
        // Descriptions are prose; rows are the cluster's.
        let columns = body["columnDefinitions"].as_array().into_iter().flatten();
        return columns.map(|c| json!([c["name"], c["type"], c["format"], c["priority"]])).collect();
    }
    if body["kind"] == "Status" {
        // Several errors come in no particular order.
        if let Some(causes) = body.pointer_mut("/details/causes").and_then(Value::as_array_mut) {
            causes.sort_by_key(ToString::to_string);
            causes.dedup();
            if causes.len() > 1 {
                body["message"] = "*".into();
            }
        }
        return body;
    }
    forget(&mut body);
    body
}

fn forget(value: &mut Value) {
    const CHANGING: &[&str] = &[
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "time",
        "lastTransitionTime",
        "lastPhaseTransitionTime",
        "clusterIP",
        "clusterIPs",
        "nodePort",
        "hash",
        "storageVersionHash",
        "serverAddress",
        "caBundle",
    ];
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if CHANGING.contains(&key.as_str()) && !child.is_object() {
                    *child = "*".into();
                } else {
                    forget(child);
                }
            }
            map.shift_remove("storageVersionHash");
        }
        Value::Array(list) => {
            // The recorded cluster had a custom resource; this one has metrics without an add-on.
            list.retain(|item| !ADDED.iter().any(|group| item["name"] == *group || item["metadata"]["name"] == *group));
            list.iter_mut().for_each(forget);
        }
        Value::String(text) if is_uuid(text) => *text = "*".into(),
        Value::String(text) if text.starts_with("kube-api-access-") => *text = "kube-api-access-*".into(),
        _ => {}
    }
}

/// Groups that are there on one side only.
const ADDED: [&str; 2] = ["example.com", "metrics.k8s.io"];

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The places in which two answers differ, as a person reads them.
pub fn differences(wanted: &Answer, got: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if wanted.code != got.code {
        found.push(format!("code {} instead of {}", got.code, wanted.code));
    }
    let mut expected = wanted.body.clone();
    forget(&mut expected);
    compare("", &expected, &got.body, &mut found);
    found
}

fn compare(path: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, found),
                    None => found.push(format!("{path}.{key} is missing, should be {value}")),
                }
            }
            found
                .extend(b.iter().filter(|(key, _)| !a.contains_key(*key)).map(|(key, value)| format!("{path}.{key} is too much: {value}")));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (x, y))| compare(&format!("{path}[{i}]"), x, y, found));
        }
        _ if wanted != got => found.push(format!("{path} is {got}, should be {wanted}")),
        _ => {}
    }
}
