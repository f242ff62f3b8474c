//! Changes to objects that every cluster has: by the three kinds of patches, by apply and as a whole.

use serde_json::{Value, json};

use crate::{Case, NAMESPACE, get};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

pub(super) fn cases() -> Vec<Case> {
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    let service = "/api/v1/namespaces/default/services/kubernetes".to_string();
    let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
    let mut cases = Vec::new();
    let mut add = |what: &str, path: &str, content_type: &'static str, bodies: &[Value]| {
        cases.extend(bodies.iter().map(|body| Case {
            method: "PATCH",
            content_type,
            body: Some(body.clone()),
            ..get(&format!("{what} by {content_type}: {body}"), &format!("{path}?dryRun=All&fieldManager=test"))
        }));
    };
    add("patch of a ServiceAccount", &account, JSON, &operations());
    let merged = [
        json!({}),
        json!([]),
        json!("x"),
        json!(null),
        json!({"metadata": {"labels": {"a": "b", "c": null}}}),
        json!({"metadata": {"labels": {"a b": "c d"}}}),
        json!({"metadata": {"labels": {"a": null}}}),
        json!({"metadata": null}),
        json!({"metadata": {"name": "other"}}),
        json!({"metadata": {"namespace": "other"}}),
        json!({"metadata": {"uid": "other"}}),
        json!({"metadata": {"resourceVersion": "1"}}),
        json!({"metadata": {"resourceVersion": "x"}}),
        json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}}),
        json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}}),
        json!({"metadata": {"generation": 7}}),
        json!({"metadata": {"generateName": "x-"}}),
        json!({"metadata": {"managedFields": []}}),
        json!({"metadata": {"finalizers": ["a"]}}),
        json!({"metadata": {"finalizers": ["a.b/c"]}}),
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}}),
        json!({"unknown": 1}),
        json!({"imagePullSecrets": [{"name": "a"}], "automountServiceAccountToken": false}),
        json!({"imagePullSecrets": []}),
        json!({"automountServiceAccountToken": null}),
    ];
    add("patch of a ServiceAccount", &account, MERGE, &merged);
    let strategic = [
        json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}),
        json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
        json!({"imagePullSecrets": [{"$patch": "delete", "name": "a"}]}),
        json!({"imagePullSecrets": [{"$patch": "replace"}, {"name": "b"}]}),
        json!({"imagePullSecrets": [{"$patch": "nonsense", "name": "a"}]}),
        json!({"imagePullSecrets": [{"other": "a"}]}),
        json!({"imagePullSecrets": null}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/c"]}}),
        json!({"metadata": {"finalizers": ["a.b/c"]}}),
        json!({"metadata": {"finalizers": ["a.b/c"], "$setElementOrder/finalizers": ["a.b/c"]}}),
        json!({"metadata": {"labels": {"$patch": "replace", "a": "b"}}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"$patch": "nonsense"}}),
        json!([]),
        json!({"unknown": 1}),
    ];
    add("patch of a ServiceAccount", &account, STRATEGIC, &strategic);
    let of_service = [
        json!({"spec": {"clusterIP": "10.96.0.77"}}),
        json!({"spec": {"clusterIP": "None"}}),
        json!({"spec": {"type": "ExternalName"}}),
        json!({"spec": {"ipFamilies": ["IPv6"]}}),
        json!({"spec": {"ports": [{"port": 80}]}}),
        json!({"spec": {"ports": null}}),
    ];
    add("patch of a Service", &service, STRATEGIC, &of_service);
    let of_namespace = [
        json!({"spec": {"finalizers": []}}),
        json!({"status": {"phase": "Terminating"}}),
        json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}}),
    ];
    add("patch of a Namespace", &namespace, MERGE, &of_namespace);
    add(
        "patch of a status",
        &format!("{namespace}/status"),
        MERGE,
        &[json!({"metadata": {"labels": {"a": "b"}}, "spec": {"finalizers": []}})],
    );

    let whole = |metadata: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    let wholes = [
        whole(json!({"name": "default"})),
        whole(json!({"name": "default", "namespace": NAMESPACE, "labels": {"a": "b"}})),
        whole(json!({"name": "other"})),
        whole(json!({"namespace": "other", "name": "default"})),
        whole(json!({})),
        whole(json!({"name": "default", "uid": "other"})),
        whole(json!({"name": "default", "resourceVersion": "1"})),
        whole(json!({"name": "default", "resourceVersion": "x"})),
        whole(json!({"name": "default", "resourceVersion": "0"})),
        whole(json!({"name": "default", "deletionTimestamp": "2020-01-01T00:00:00Z"})),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "default"}}),
        json!({"apiVersion": "v2", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
        json!({"metadata": {"name": "default"}}),
    ];
    cases.extend(wholes.iter().map(|body| Case {
        method: "PUT",
        body: Some(body.clone()),
        ..get(&format!("update of a ServiceAccount: {body}"), &format!("{account}?dryRun=All&fieldManager=test"))
    }));
    cases
}

/// JSON patches, by RFC 6902 and beyond.
fn operations() -> Vec<Value> {
    let secrets = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
    let add = |names: &[&str]| json!({"op": "add", "path": "/imagePullSecrets", "value": secrets(names)});
    vec![
        json!([]),
        json!({"op": "add"}),
        json!("nonsense"),
        json!([1]),
        json!([{"op": "nonsense", "path": "/secrets"}]),
        json!([{"op": "add", "value": 1}]),
        json!([{"op": "add", "path": "/metadata/labels"}]),
        json!([{"path": "/metadata/labels"}]),
        json!([{"op": "add", "path": "metadata", "value": {}}]),
        json!([{"op": "remove", "path": ""}]),
        json!([{"op": "replace", "path": "", "value": {}}]),
        json!([{"op": "replace", "path": "", "value": 1}]),
        json!([{"op": "test", "path": "", "value": {}}]),
        json!([{"op": "test", "path": "/imagePullSecrets", "value": null}, {"op": "add", "path": "/metadata/finalizers", "value": ["a.b/c"]}]),
        json!([{"op": "test", "path": "/imagePullSecrets", "value": []}]),
        json!([{"op": "test", "path": "/metadata/name", "value": null}]),
        json!([{"op": "test", "path": "/metadata/name", "value": "default"}]),
        json!([{"op": "test", "path": "/metadata/name/x", "value": null}]),
        json!([{"op": "replace", "path": "/imagePullSecrets", "value": secrets(&["a"])}]),
        json!([{"op": "replace", "path": "/metadata/labels/a", "value": "b"}]),
        json!([{"op": "remove", "path": "/imagePullSecrets"}]),
        json!([{"op": "remove", "path": "/metadata/labels/a"}]),
        json!([{"op": "add", "path": "/metadata/labels/a", "value": "b"}]),
        json!([{"op": "add", "path": "/imagePullSecrets/-", "value": {"name": "a"}}]),
        json!([add(&["a", "b"]), {"op": "add", "path": "/imagePullSecrets/-1", "value": {"name": "c"}}]),
        json!([add(&["a", "b"]), {"op": "add", "path": "/imagePullSecrets/2", "value": {"name": "c"}}]),
        json!([add(&["a", "b"]), {"op": "add", "path": "/imagePullSecrets/3", "value": {"name": "c"}}]),
        json!([add(&["a", "b"]), {"op": "add", "path": "/imagePullSecrets/x", "value": {"name": "c"}}]),
        json!([add(&["a", "b"]), {"op": "remove", "path": "/imagePullSecrets/-2"}]),
        json!([add(&["a", "b"]), {"op": "remove", "path": "/imagePullSecrets/-3"}]),
        json!([add(&["a", "b"]), {"op": "replace", "path": "/imagePullSecrets/-1/name", "value": "c"}]),
        json!([add(&["a", "b"]), {"op": "move", "from": "/imagePullSecrets/0", "path": "/imagePullSecrets/-"}]),
        json!([add(&["a", "b"]), {"op": "copy", "from": "/imagePullSecrets", "path": "/secrets"}]),
        json!([add(&[]), {"op": "remove", "path": "/imagePullSecrets/0"}]),
        json!([{"op": "copy", "from": "/imagePullSecrets", "path": "/secrets"}]),
        json!([{"op": "move", "from": "/imagePullSecrets", "path": "/secrets"}]),
        json!([{"op": "add", "path": "/metadata/annotations", "value": {"a/b": "1"}}, {"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"}]),
        json!([{"op": "add", "path": "/unknown", "value": "x"}]),
        json!([{"op": "add", "path": "/automountServiceAccountToken", "value": false, "more": 1}]),
        json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]),
        json!([{"op": "replace", "path": "/metadata/uid", "value": "other"}]),
        json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]),
        json!([{"op": "add", "path": "/metadata/labels", "value": {"a b": "c d"}}]),
    ]
}
