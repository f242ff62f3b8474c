//! Tokens of ServiceAccounts: which keys sign what, and what each is good for.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::{Plan, Scope};

const ROBOT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: Secret
metadata: {name: robot, annotations: {kubernetes.io/service-account.name: robot}}
type: kubernetes.io/service-account-token
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot-reads}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
";

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What a token says, unchecked.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// These claims under the key that this node signs its Pods' tokens with.
fn signed_by_node(node: usize, claims: &Value) -> String {
    let pem = std::fs::read_to_string(format!("/var/lib/skein-lab/nodes/node-{node}/data/pki/token.key")).expect("the node has a key");
    let key = KeyPair::from_pem(&pem).expect("a key");
    let id: String = URL_SAFE_NO_PAD.encode(&rcgen::PublicKeyData::der_bytes(&key)[1..33]).chars().take(16).collect();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random).expect("a P-256 key");
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&json!({"alg": "ES256", "typ": "JWT", "kid": id})), encode(claims));
    let signature = key.sign(&random, text.as_bytes()).expect("it signs");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_nodes_key_is_good_for_its_own_pods_and_the_clusters_for_the_rest() {
    let cluster = Cluster::build(&Plan::new(4));
    cluster.load_busybox();
    cluster.apply("node-1", ROBOT);
    let voters = cluster.until("three vote", || {
        let status = cluster.status("node-1");
        let votes = |node: &&Value| node["role"] == "leader" || node["role"] == "voter";
        let voters: Vec<Value> = status["nodes"].as_array()?.iter().filter(votes).map(|node| node["name"].clone()).collect();
        (voters.len() == 3).then_some(voters)
    });
    let replica = (1..=4).find(|node| !voters.contains(&json!(format!("node-{node}")))).expect("one does not vote");
    let code = |node: usize, token: &str| cluster.request_as(node, Some(token.trim()), PODS).0;
    let known_everywhere =
        |token: &str| (1..=4).for_each(|node| cluster.until("the token is known", || (code(node, token) == 200).then_some(())));

    // Whatever node is asked for a token, one that votes signs it.
    let token = cluster.kubectl(&format!("node-{replica}"), &["create", "token", "robot"]);
    known_everywhere(&token);
    assert_eq!(claims(&token)["sub"], "system:serviceaccount:default:robot");
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Node", "name": "node-1"}}}).to_string();
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let (created, answer) = cluster.request(replica, "POST", path, Some(&bound));
    assert_eq!(
        (created, claims(answer["status"]["token"].as_str().unwrap_or_default())["kubernetes.io"]["node"]["name"].as_str()),
        (201, Some("node-1")),
        "{answer}"
    );

    // A Secret with a token is filled, and its token holds until the Secret is changed.
    let encoded = cluster.until("the Secret has a token", || {
        let secret = cluster.kubectl_json("node-2", &["get", "secret", "robot"]);
        secret["data"]["token"].as_str().map(String::from)
    });
    let lasting = String::from_utf8(STANDARD.decode(&encoded).expect("base64")).expect("text");
    known_everywhere(&lasting);
    assert_eq!(claims(&lasting)["iss"], "kubernetes/serviceaccount");
    let secret = cluster.kubectl_json("node-3", &["get", "secret", "robot"]);
    assert_eq!(secret["data"]["namespace"], STANDARD.encode("default"));
    assert!(
        secret["data"]["ca.crt"].is_string() && secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"].is_string(),
        "{secret}"
    );
    cluster.kubectl("node-1", &["patch", "secret", "robot", "--type=json", "-p", r#"[{"op": "remove", "path": "/data/token"}]"#]);
    cluster.until("the old token has ended", || (code(2, &lasting) == 401).then_some(()));
    let renewed = cluster.until("the Secret has another", || {
        let encoded = cluster.kubectl_json("node-2", &["get", "secret", "robot"])["data"]["token"].as_str().map(String::from)?;
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
    });
    assert_ne!(claims(&renewed), Value::Null);

    // A Pod's token comes from its node's key, which signs for nobody else's Pods, and for nothing that is no Pod's.
    let overrides = format!(r#"{{"spec":{{"serviceAccountName":"robot","nodeName":"node-{replica}"}}}}"#);
    let run = ["run", "caller", "--image", BUSYBOX, "--restart=Never", "--overrides", &overrides, "--command", "--", "sleep", "600"];
    cluster.kubectl("node-2", &run);
    cluster.kubectl("node-3", &["wait", "pod/caller", "--for=condition=Ready", "--timeout=60s"]);
    let own = cluster.kubectl("node-1", &["exec", "caller", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]);
    known_everywhere(&own);
    let other = replica % 4 + 1;
    known_everywhere(&signed_by_node(replica, &claims(&own)));
    assert_eq!(code(1, &signed_by_node(other, &claims(&own))), 401);
    assert_eq!(code(1, &signed_by_node(replica, &claims(&token))), 401);
    assert_eq!(code(1, &signed_by_node(replica, &claims(&renewed))), 401);
    let as_pod = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "caller"}}}).to_string();
    let (refused, answer) = cluster.request(1, "POST", &path.replace("robot", "default"), Some(&as_pod));
    assert_eq!(refused, 400, "{answer}");
    let why = "cannot bind token for serviceaccount \"default\" to pod running with different serviceaccount name.";
    assert_eq!(answer["message"], why);

    // The keys outlive who made them, and all that is an account's goes with it.
    let leader = cluster.leader("node-1");
    cluster.lab.kill(&leader, Scope::Machine).expect("the machine can be killed");
    let alive: Vec<usize> = (1..=4).filter(|node| format!("node-{node}") != leader).collect();
    for node in &alive {
        cluster.until("what was signed holds", || (code(*node, &token) == 200 && code(*node, &renewed) == 200).then_some(()));
    }
    let survivor = format!("node-{}", alive[0]);
    let again = cluster.until("another voter signs", || cluster.try_kubectl(&survivor, &["create", "token", "robot"]).ok());
    cluster.until("it is known", || (code(alive[1], &again) == 200).then_some(()));
    cluster.kubectl(&survivor, &["delete", "serviceaccount", "robot"]);
    cluster.until("nothing holds any more", || [&token, &renewed, &again].iter().all(|token| code(alive[0], token) == 401).then_some(()));
    cluster.until("its Secret is gone", || {
        cluster.try_kubectl(&survivor, &["get", "secret", "robot"]).err().filter(|e| e.contains("NotFound"))
    });
}
