//! The API under requests that are wrong, and under kubectl's everyday verbs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use skein_cluster_tests::Cluster;
use skein_quic::authority::{new_key, signing_request};

#[test]
fn bad_input_gets_kubernetes_words() {
    let cluster = Cluster::with_nodes(1);
    let check = |method: &str, path: &str, body: &str, code: u16, reason: &str, words: &str| {
        let (got, status) = cluster.request(1, method, path, Some(body));
        let message = status["message"].as_str().unwrap_or_default();
        assert_eq!((got, status["reason"].as_str().unwrap_or_default()), (code, reason), "{method} {path} {message}");
        assert!(message.contains(words), "{message:?} does not contain {words:?}");
        assert_eq!(status["kind"], "Status");
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
    check("POST", maps, "{", 400, "BadRequest", "unrecognized");
    check("POST", maps, "[]", 400, "BadRequest", "unrecognized");
    check(
        "POST",
        maps,
        &named("Upper"),
        422,
        "Invalid",
        "ConfigMap \"Upper\" is invalid: metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain",
    );
    check("POST", maps, "{}", 422, "Invalid", "name or generateName is required");
    check(
        "POST",
        maps,
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#,
        400,
        "BadRequest",
        "cannot be handled as a ConfigMap",
    );
    check(
        "POST",
        maps,
        r#"{"metadata":{"name":"a"},"data":{"k":1}}"#,
        400,
        "BadRequest",
        "cannot unmarshal number into Go struct field ConfigMap.data of type string",
    );
    check(
        "POST",
        &format!("{maps}?fieldValidation=Strict"),
        r#"{"metadata":{"name":"a"},"dat":{}}"#,
        400,
        "BadRequest",
        "strict decoding error: unknown field \"dat\"",
    );
    check("POST", "/api/v1/namespaces/nowhere/configmaps", &named("a"), 404, "NotFound", "namespaces \"nowhere\" not found");
    check("POST", "/api/v1/namespaces/default/nonsense", &named("a"), 404, "NotFound", "the server could not find the requested resource");
    check("PUT", maps, &named("a"), 405, "MethodNotAllowed", "does not allow this method");
    check("PUT", &format!("{maps}/absent"), &named("absent"), 404, "NotFound", "configmaps \"absent\" not found");
    check("PATCH", &format!("{maps}/absent"), "{}", 404, "NotFound", "configmaps \"absent\" not found");

    assert_eq!(cluster.request(1, "POST", maps, Some(&named("a"))).0, 201);
    check("POST", maps, &named("a"), 409, "AlreadyExists", "configmaps \"a\" already exists");
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}}).to_string();
    check(
        "PUT",
        &format!("{maps}/a"),
        &stale,
        409,
        "Conflict",
        "the object has been modified; please apply your changes to the latest version and try again",
    );
    let large = |bytes: usize| json!({"metadata": {"name": "large", "annotations": {}}, "data": {"a": "x".repeat(bytes)}}).to_string();
    std::fs::write(cluster.directory().join("large"), large(1_800_000)).expect("a file");
    let path = format!("@{}", cluster.directory().join("large").display());
    check("POST", maps, &path, 422, "Invalid", "Too long: may not be more than 1048576 bytes");
    std::fs::write(cluster.directory().join("large"), large(4_000_000)).expect("a file");
    check("POST", maps, &path, 413, "RequestEntityTooLarge", "limit is 3145728");
    // The daemon has survived all of it.
    assert_eq!(cluster.request(1, "GET", "/healthz", None).0, 200);
}

/// What there was at a revision is told exactly; a list that is read for too long goes on with what there is now.
fn old_lists_are_told_or_expire(cluster: &Cluster, first: &Value, names: impl Fn(&Value) -> Vec<String>) {
    let maps = "/api/v1/namespaces/default/configmaps";
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let at = |kind: &str| names(&cluster.request(3, "GET", &format!("{maps}?resourceVersion={revision}&{kind}"), None).1);
    assert_eq!(at("resourceVersionMatch=Exact"), ["a0", "a1", "a2", "a3", "a4"]);
    assert_eq!(at("resourceVersionMatch=NotOlderThan"), ["a0", "a1", "a2", "a4"]);
    assert_eq!(at("limit=4"), ["a0", "a1", "a2", "a3"]);
    let (code, refused) = cluster.request(1, "GET", &format!("{maps}?resourceVersionMatch=Exact"), None);
    assert_eq!((code, &refused["details"]["kind"]), (422, &json!("ListOptions")));

    let token = first["metadata"]["continue"].as_str().unwrap_or_default();
    let mut token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap_or_default()).unwrap_or_default();
    token["at"] = json!(1);
    let follow = |token: &str| cluster.request(2, "GET", &format!("{maps}?limit=5&continue={token}"), None);
    let (code, expired) = follow(&URL_SAFE_NO_PAD.encode(token.to_string()));
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")), "{expired}");
    let (code, rest) = follow(expired["metadata"]["continue"].as_str().unwrap_or_default());
    assert_eq!((code, names(&rest)), (200, vec!["a2".into(), "a4".into()]), "{rest}");
}

/// What the old type needed goes with it, and what stays is what it was.
fn services_change_their_type(cluster: &Cluster) {
    cluster.kubectl("node-1", &["create", "service", "nodeport", "changing", "--tcp=80"]);
    let turned = |node: &str, spec: &str| {
        let patch = format!(r#"{{"spec":{spec}}}"#);
        let fields = "jsonpath={.spec.clusterIP},{.spec.ports[0].nodePort},{.spec.externalTrafficPolicy}";
        let said = cluster.kubectl(node, &["patch", "service", "changing", "-p", &patch, "-o", fields]);
        said.split(',').map(String::from).collect::<Vec<_>>()
    };
    let first = turned("node-2", r#"{"sessionAffinity":"None"}"#);
    assert!(first.iter().all(|field| !field.is_empty()), "{first:?}");
    assert_eq!(turned("node-3", r#"{"type":"ClusterIP"}"#), [first[0].as_str(), "", ""]);
    let balanced = turned("node-1", r#"{"type":"LoadBalancer"}"#);
    assert_eq!((&balanced[0], balanced[1].is_empty(), balanced[2].as_str()), (&first[0], false, "Cluster"));
    assert_eq!(turned("node-2", r#"{"type":"ExternalName","externalName":"a.example.com"}"#), ["", "", ""]);
    let again = turned("node-3", r#"{"type":"ClusterIP","externalName":null}"#);
    assert!(!again[0].is_empty() && again[1].is_empty(), "{again:?}");
    cluster.kubectl("node-1", &["delete", "service", "changing"]);
}

/// What a Service had is free when it went with its namespace, or with its last finalizer.
fn services_free_what_they_claimed(cluster: &Cluster) {
    let body = r#"{"metadata":{"name":"claims","finalizers":["example.com/wait"]},
        "spec":{"type":"NodePort","clusterIP":"10.96.77.7","ports":[{"port":80,"nodePort":31777}]}}"#;
    let make =
        |node: usize, namespace: &str| cluster.request(node, "POST", &format!("/api/v1/namespaces/{namespace}/services"), Some(body)).0;
    let finish = |node: usize, namespace: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/services/claims");
        cluster.request(node, "PATCH", &path, Some(r#"{"metadata":{"finalizers":null}}"#)).0
    };
    cluster.kubectl("node-1", &["create", "namespace", "passing"]);
    assert_eq!((make(1, "passing"), make(2, "default")), (201, 422));
    assert_eq!(finish(3, "passing"), 200);
    cluster.kubectl("node-2", &["delete", "namespace", "passing"]);
    cluster.until("what went with its namespace is free", || (make(3, "default") == 201).then_some(()));
    assert_eq!(cluster.request(1, "DELETE", "/api/v1/namespaces/default/services/claims", None).0, 200);
    assert_eq!((make(2, "default"), finish(2, "default")), (422, 200));
    cluster.until("what went with its last finalizer is free", || (make(1, "default") == 201).then_some(()));
    assert_eq!(finish(3, "default"), 200);
    cluster.kubectl("node-1", &["delete", "service", "claims"]);
}

#[test]
fn reads_pages_watches_and_patches() {
    let cluster = Cluster::start();
    let maps = "/api/v1/namespaces/default/configmaps";
    for index in 0..5 {
        let body = json!({"metadata": {"name": format!("a{index}"), "labels": {"odd": (index % 2).to_string()}}}).to_string();
        assert_eq!(cluster.request(1 + index % 3, "POST", maps, Some(&body)).0, 201);
    }
    let metrics = cluster.kubectl("node-2", &["get", "--raw", "/metrics"]);
    let counted = r#"apiserver_request_total{verb="create",group="",version="v1",resource="configmaps",subresource="",code="201"} "#;
    assert!(metrics.contains(counted) && metrics.contains("skein_state_objects"), "{metrics}");
    // What one node acknowledged, every other node shows at once.
    let names = |list: &Value| {
        let items = list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str());
        // Every namespace has the CA; it comes behind ours.
        items.filter(|name| *name != "kube-root-ca.crt").map(String::from).collect::<Vec<_>>()
    };
    for node in 1..=3 {
        assert_eq!(names(&cluster.request(node, "GET", maps, None).1), ["a0", "a1", "a2", "a3", "a4"]);
        assert_eq!(names(&cluster.request(node, "GET", &format!("{maps}?labelSelector=odd%3D1"), None).1), ["a1", "a3"]);
    }
    // Pages come from one snapshot.
    let (_, first) = cluster.request(1, "GET", &format!("{maps}?limit=2"), None);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a0".into(), "a1".into()], &json!(4)));
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_string();
    assert_eq!(cluster.request(2, "DELETE", &format!("{maps}/a3"), None).0, 200);
    for node in 1..=3 {
        let (_, rest) = cluster.request(node, "GET", &format!("{maps}?limit=5&continue={token}"), None);
        assert_eq!(names(&rest), ["a2", "a3", "a4"], "node {node} knows what there was");
        assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }
    old_lists_are_told_or_expire(&cluster, &first, names);
    // A patch through any node sees the others' writes.
    for node in 1..=3 {
        let patch = json!({"data": {format!("from{node}"): "x"}}).to_string();
        assert_eq!(cluster.request(node, "PATCH", &format!("{maps}/a0"), Some(&patch)).0, 200);
    }
    let (_, patched) = cluster.request(3, "GET", &format!("{maps}/a0"), None);
    assert_eq!(patched["data"], json!({"from1": "x", "from2": "x", "from3": "x"}));
    // A patch of one version only, by nodes that may not have seen it yet.
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": patched["metadata"]["resourceVersion"]});
    let locked = json!([test, {"op": "add", "path": "/data/locked", "value": "x"}]).to_string();
    let patch = ["patch", "configmap", "a0", "--type=json", "-p", &locked];
    cluster.kubectl("node-2", &patch);
    let refused = cluster.try_kubectl("node-1", &patch).expect_err("it is another version now");
    assert!(refused.contains("the server rejected our request due to an error in our request"), "{refused}");
    services_change_their_type(&cluster);
    services_free_what_they_claimed(&cluster);
    // kubectl's everyday verbs, each through another node.
    cluster.kubectl("node-1", &["label", "configmap", "a1", "team=a"]);
    cluster.kubectl("node-2", &["annotate", "configmap", "a1", "note=b"]);
    assert!(cluster.kubectl("node-3", &["describe", "configmap", "a1"]).contains("team=a"));
    assert!(cluster.kubectl("node-1", &["explain", "deployment.spec.replicas"]).contains("integer"));
    assert!(cluster.kubectl("node-2", &["api-resources"]).contains("replicationcontrollers"));
    assert_eq!(cluster.kubectl("node-3", &["auth", "can-i", "create", "pods"]).trim(), "yes");
    assert_eq!(cluster.kubectl("node-1", &["get", "all", "-o", "name"]).trim(), "service/kubernetes");
    cluster.kubectl("node-2", &["delete", "configmap", "--all"]);
    assert_eq!(names(&cluster.request(1, "GET", maps, None).1), Vec::<String>::new());
}

#[test]
fn a_join_token_is_for_one_key_and_says_what_is_wrong() {
    let cluster = Cluster::with_nodes(1);
    let token = |seconds: i64| {
        let (code, made) = cluster.request(1, "POST", "/skein/v1/tokens", Some(&json!({"expirationSeconds": seconds}).to_string()));
        assert_eq!(code, 200 + u16::from(code == 201));
        let text = made["token"].as_str().unwrap_or_default().trim_start_matches("skein1.").to_string();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text).expect("base64");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    let ask = |token: &Value, secret: &str, name: &str, signing_request: &str| {
        let body = json!({"tokenId": token["id"], "tokenSecret": secret, "signingRequest": signing_request, "name": name, "address": "198.18.0.99", "peerPort": 6444});
        let (code, answer) = cluster.request(1, "POST", "/skein/v1/join", Some(&body.to_string()));
        (code, answer["message"].as_str().unwrap_or_default().to_string(), answer["id"].as_u64())
    };
    let [first, second] = [(); 2].map(|()| new_key().and_then(|key| signing_request(&key)).expect("a request"));
    let good = token(60);
    let secret = good["secret"].as_str().unwrap_or_default();

    let (code, message, _) = ask(&good, "wrong", "late", &first);
    assert_eq!((code, message.contains("wrong secret")), (401, true), "{message}");
    let expired = token(-1);
    let (code, message, _) = ask(&expired, expired["secret"].as_str().unwrap_or_default(), "late", &first);
    assert_eq!((code, message.contains("expired at")), (401, true), "{message}");
    let (code, message, _) = ask(&json!({"id": "00000000"}), secret, "late", &first);
    assert_eq!((code, message.contains("not known")), (401, true), "{message}");
    let (code, message, _) = ask(&good, secret, "node-1", &first);
    assert_eq!((code, message.contains("in the cluster already")), (409, true), "{message}");

    let (code, _, id) = ask(&good, secret, "late", &first);
    assert_eq!((code, id.is_some()), (200, true));
    // The same key may ask again, and is the same node; another key may not.
    assert_eq!(ask(&good, secret, "late", &first).2, id);
    let (code, message, _) = ask(&good, secret, "thief", &second);
    assert_eq!((code, message.contains("was used already, by node late")), (401, true), "{message}");
}

#[test]
fn limits_of_a_namespace_are_filled_in_and_kept() {
    let cluster = Cluster::with_nodes(1);
    cluster.apply(
        "node-1",
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\nspec: {limits: [{type: Container, max: {cpu: 500m}, default: {cpu: 200m}}]}",
    );
    let pod = |resources: Value| json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "skein.test/none:1", "resources": resources}]}});
    let pods = "/api/v1/namespaces/default/pods?dryRun=All";
    let (code, made) = cluster.request(1, "POST", pods, Some(&pod(json!({})).to_string()));
    assert_eq!((code, &made["spec"]["containers"][0]["resources"]["limits"]["cpu"]), (201, &json!("200m")));
    let (code, refused) = cluster.request(1, "POST", pods, Some(&pod(json!({"limits": {"cpu": 1}})).to_string()));
    assert_eq!(code, 403);
    assert_eq!(refused["message"], "pods \"a\" is forbidden: maximum cpu usage per Container is 500m, but limit is 1");
    // The same for Pods that a controller makes.
    let image = "skein.test/none:1";
    cluster.kubectl("node-1", &["create", "deployment", "web", "--image", image]);
    cluster.until("the Pod has the namespace's limit", || {
        let list = cluster.kubectl_json("node-1", &["get", "pods", "-l", "app=web"]);
        (list["items"][0]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "200m").then_some(())
    });
}
