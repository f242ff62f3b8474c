//! Admission by objects: policies in CEL and webhooks, for clients and for what controllers make.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skein_cluster_tests::server::Server;
use skein_cluster_tests::{BUSYBOX, Cluster};

/// Kubernetes gives a changed policy as long to take effect on every server.
fn refused(cluster: &Cluster, node: &str, manifest: &str) -> String {
    cluster.until("it is refused", || {
        let tried = cluster.try_kubectl(node, &["apply", "-f", &cluster.manifest(manifest)]);
        if tried.is_ok() {
            cluster.kubectl(node, &["delete", "--ignore-not-found", "-f", &cluster.manifest(manifest)]);
        }
        tried.err()
    })
}

fn deployment(name: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: c, image: "{BUSYBOX}", command: [sleep, "3600"]}}]
"#
    )
}

#[test]
fn policies_hold_on_every_node() {
    let cluster = Cluster::start();
    cluster.apply(
        "node-1",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: bounds}
data: {most: "5"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas}
spec:
  failurePolicy: Fail
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  variables: [{name: most, expression: "int(params.data.most)"}]
  validations:
  - expression: object.spec.replicas <= variables.most
    messageExpression: "'at most ' + string(variables.most) + ' replicas, not ' + string(object.spec.replicas)"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: replicas}
spec:
  policyName: replicas
  validationActions: [Deny]
  paramRef: {name: bounds, namespace: default, parameterNotFoundAction: Deny}
"#,
    );
    let why = "ValidatingAdmissionPolicy 'replicas' with binding 'replicas' denied request: at most 5 replicas, not 9";
    for node in ["node-1", "node-2", "node-3"] {
        let told = refused(&cluster, node, &deployment("many", 9));
        assert!(told.contains(why) && told.contains("\"many\" is invalid"), "{told}");
    }
    cluster.apply("node-2", &deployment("few", 1));
    // Parameters are looked up for each request.
    cluster.kubectl("node-3", &["patch", "configmap", "bounds", "-p", r#"{"data": {"most": "20"}}"#]);
    cluster.until("more are allowed", || cluster.try_kubectl("node-1", &["apply", "-f", &cluster.manifest(&deployment("many", 9))]).ok());
}

/// A policy of Kubernetes' documentation (KEP-3488): who may not do something himself may not write it down, either.
const ASKING: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: protected}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  matchConditions: [{name: protected, expression: "has(object.metadata.labels) && 'protected' in object.metadata.labels"}]
  validations:
  - expression: authorizer.group('').resource('secrets').namespace(object.metadata.namespace).check('get').allowed()
    message: who may not read Secrets makes nothing protected
  - expression: authorizer.requestResource.check('delete').allowed()
    message: who may not delete it makes nothing protected
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: protected}
spec: {policyName: protected, validationActions: [Deny]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: maker}
rules: [{apiGroups: [''], resources: [configmaps], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: maker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: maker}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
"#;

#[test]
fn policies_ask_what_somebody_may() {
    let cluster = Cluster::start();
    cluster.apply("node-1", ASKING);
    let make = |node: &str, name: &str| {
        let map =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default, labels: {{protected: 'yes'}}}}\n");
        cluster.try_kubectl(node, &["create", "--as=system:serviceaccount:default:robot", "-f", &cluster.manifest(&map)])
    };
    cluster.until("he may make ConfigMaps", || {
        let plain = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain, namespace: default}\n";
        cluster.try_kubectl("node-2", &["create", "--as=system:serviceaccount:default:robot", "-f", &cluster.manifest(plain)]).ok()
    });
    for node in ["node-1", "node-2", "node-3"] {
        let told = cluster.until("the policy holds", || make(node, "a").err());
        assert!(
            told.contains("ValidatingAdmissionPolicy 'protected' with binding 'protected' denied request: who may not read Secrets"),
            "{told}"
        );
    }
    let grant = |verb: &str, resource: &str| {
        let role = format!("{verb}-{resource}");
        cluster.kubectl("node-3", &["create", "role", &role, &format!("--verb={verb}"), &format!("--resource={resource}")]);
        cluster.kubectl("node-3", &["create", "rolebinding", &role, &format!("--role={role}"), "--serviceaccount=default:robot"]);
    };
    grant("get", "secrets");
    let told = cluster.until("he may read Secrets", || make("node-1", "a").err().filter(|told| told.contains("who may not delete it")));
    assert!(!told.contains("who may not read"), "{told}");
    grant("delete", "configmaps");
    cluster.until("he may do both", || make("node-2", "a").ok());
}

/// Gives Pods a label, keeps those away that ask for it, and answers some with a patch that does not fit.
fn judge(request: &Value) -> Value {
    let object = &request["object"];
    if object.pointer("/metadata/labels/unwanted").is_some() {
        return json!({"allowed": false, "status": {"message": "this one is unwanted", "code": 403}});
    }
    if object.pointer("/metadata/labels/misfit").is_some() {
        let patch = STANDARD.encode(r#"[{"op": "remove", "path": "/metadata/labels/nothing"}]"#);
        return json!({"allowed": true, "patchType": "JSONPatch", "patch": patch});
    }
    let by = request.pointer("/userInfo/username").and_then(Value::as_str).unwrap_or_default().replace(':', ".");
    let has_labels = object.pointer("/metadata/labels").is_some();
    let mut patch = vec![json!({"op": "add", "path": "/metadata/labels/made-by", "value": by})];
    if !has_labels {
        patch.insert(0, json!({"op": "add", "path": "/metadata/labels", "value": {}}));
    }
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(json!(patch).to_string()), "warnings": ["seen by the webhook"]})
}

#[test]
fn webhooks_change_and_refuse_what_clients_and_controllers_make() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let webhook = Server::webhook("198.18.0.1", judge);
    let configuration = |name: &str, url: &str, policy: &str| {
        format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: {name}}}
webhooks:
- name: {name}.skein.test
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: {policy}
  timeoutSeconds: 5
  clientConfig: {{url: "{url}", caBundle: {}}}
  rules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  namespaceSelector: {{matchExpressions: [{{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}}]}}
"#,
            webhook.bundle
        )
    };
    cluster.apply("node-1", &configuration("labels", &format!("https://{}/judge", webhook.address), "Fail"));
    let pod = |name: &str, labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{nodeSelector: {{no: where}}, containers: [{{name: c, image: {BUSYBOX}}}]}}\n"
        )
    };
    let told = refused(&cluster, "node-3", &pod("bad", "unwanted: \"1\""));
    assert!(told.contains("admission webhook \"labels.skein.test\" denied the request: this one is unwanted"), "{told}");
    let told = refused(&cluster, "node-1", &pod("odd", "misfit: \"1\""));
    assert!(told.contains("Internal error occurred: ") && !told.contains("failed calling webhook"), "{told}");
    cluster.apply("node-2", &pod("good", "a: b"));
    let made_by = |selector: &str| {
        let pods = cluster.kubectl_json("node-1", &["get", "pods", "-l", selector]);
        pods["items"].as_array().into_iter().flatten().map(|p| p["metadata"]["labels"]["made-by"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(made_by("a=b"), ["admin"]);
    // What a controller makes is no exception.
    cluster.apply("node-1", &deployment("web", 2));
    cluster.kubectl("node-1", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(made_by("app=web"), ["system.serviceaccount.kube-system.replicaset-controller"; 2]);
    cluster.apply("node-2", &deployment("unwanted", 1).replace("{app: unwanted}", "{app: unwanted, unwanted: \"1\"}"));
    cluster.until("an event says why there is no Pod", || {
        let events = cluster.kubectl("node-3", &["get", "events", "--field-selector", "reason=FailedCreate"]);
        events.contains("Error creating: admission webhook \"labels.skein.test\" denied the request").then_some(())
    });

    // Nobody answers: that is for the failure policy to say.
    cluster.kubectl("node-1", &["delete", "mutatingwebhookconfiguration", "labels"]);
    cluster.apply("node-1", &configuration("gone", "https://198.18.0.1:1/", "Ignore"));
    cluster.apply("node-2", &pod("ignored", "c: d"));
    assert_eq!(made_by("c=d"), [Value::Null]);
    cluster.apply("node-1", &configuration("gone", "https://198.18.0.1:1/", "Fail"));
    let told = refused(&cluster, "node-3", &pod("failed", "e: f"));
    assert!(
        told.contains("failed calling webhook \"gone.skein.test\": failed to call webhook: Post \"https://198.18.0.1:1/?timeout=5s\""),
        "{told}"
    );
}

#[test]
fn a_namespace_says_what_its_pods_may_ask_for() {
    let cluster = Cluster::start();
    cluster.kubectl("node-1", &["create", "namespace", "strict"]);
    let labels = ["pod-security.kubernetes.io/enforce=baseline", "pod-security.kubernetes.io/warn=restricted"];
    cluster.kubectl("node-2", &["label", "namespace", "strict", labels[0], labels[1]]);
    let pod = |extra: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: strict}}\nspec: {{{extra}containers: [{{name: c, image: {BUSYBOX}}}]}}\n"
        )
    };
    let told = refused(&cluster, "node-3", &pod("hostNetwork: true, "));
    assert!(told.contains("is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"), "{told}");
    cluster.apply("node-1", &pod(""));
    // A controller's Pods are held to the same, and its template is warned about.
    let privileged = deployment("web", 1).replace("metadata: {name: web}", "metadata: {name: web, namespace: strict}");
    cluster.apply("node-2", &privileged.replace("terminationGracePeriodSeconds: 1", "hostPID: true"));
    cluster.until("an event says why there is no Pod", || {
        let events = cluster.kubectl("node-3", &["get", "events", "-n", "strict", "--field-selector", "reason=FailedCreate"]);
        events.contains("violates PodSecurity").then_some(())
    });
}

#[test]
fn policies_change_what_clients_and_controllers_make() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: side}}
spec:
  matchConstraints: {{resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]}}
  matchConditions: [{{name: wanted, expression: "has(object.metadata.labels) && 'side' in object.metadata.labels"}}]
  failurePolicy: Fail
  reinvocationPolicy: Never
  variables: [{{name: team, expression: "object.metadata.labels['side'] + '-team'"}}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >
        Object{{spec: Object.spec{{containers: [Object.spec.containers{{name: 'side', image: '{BUSYBOX}', command: ['sleep', '3600']}}]}}}}
  - patchType: JSONPatch
    jsonPatch:
      expression: "[JSONPatch{{op: 'add', path: '/metadata/labels/team', value: variables.team}}]"
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: side}}
spec: {{policyName: side, matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: default}}}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web, side: blue}}}}
    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: "{BUSYBOX}", command: [sleep, "3600"]}}]}}
"#
        ),
    );
    cluster.kubectl("node-2", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let pods = cluster.kubectl_json("node-3", &["get", "pods", "-l", "app=web"]);
    let pod = &pods["items"][0];
    assert_eq!(pod["metadata"]["labels"]["team"], "blue-team");
    let names: Vec<&str> = pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["c", "side"]);
    // Who does not ask for it is left alone, and one that cannot be carried out refuses.
    let plain = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: plain}}\nspec: {{containers: [{{name: c, image: {BUSYBOX}}}]}}\n");
    cluster.apply("node-2", &plain);
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pod", "plain"])["spec"]["containers"].as_array().map(Vec::len), Some(1));
    let broken = r#"[{"op": "replace", "path": "/spec/variables/0/expression", "value": "object.metadata.nothing"}]"#;
    cluster.kubectl("node-3", &["patch", "mutatingadmissionpolicy", "side", "--type=json", "-p", broken]);
    let asked = plain.replace("name: plain", "name: asked, labels: {side: red}");
    let refused = cluster.until("every node has the new rule", || {
        cluster.try_kubectl("node-2", &["apply", "--dry-run=server", "-f", &cluster.manifest(&asked)]).err()
    });
    assert!(refused.contains("MutatingAdmissionPolicy 'side' with binding 'side' denied request"), "{refused}");
}

#[test]
fn subresources_are_judged_as_what_they_are_sent() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let policy = |name: &str, rule: &str, expression: &str| {
        format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints: {{resourceRules: [{rule}]}}
  validations: [{{expression: "{expression}", message: "not by {name}"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec: {{policyName: {name}, validationActions: [Deny]}}
---"#
        )
    };
    let rule = |group: &str, operation: &str, resource: &str| {
        format!("{{apiGroups: ['{group}'], apiVersions: [v1], operations: [{operation}], resources: [{resource}]}}")
    };
    let policies = [
        policy("scales", &rule("apps", "UPDATE", "deployments/scale"), "object.kind != 'Scale' || object.spec.replicas <= 2"),
        policy("commands", &rule("", "CONNECT", "pods/exec"), "request.kind.kind == 'PodExecOptions' && !('rm' in object.command)"),
        policy("evictions", &rule("", "CREATE", "pods/eviction"), "request.kind.kind != 'Eviction' || request.dryRun"),
        policy("tokens", &rule("", "CREATE", "serviceaccounts/token"), "object.spec.expirationSeconds <= 1000"),
        policy("bindings", &rule("", "CREATE", "pods/binding"), "object.target.name != 'node-3'"),
    ];
    cluster.apply("node-1", &policies.join("\n"));
    cluster.apply("node-2", &deployment("web", 1));
    cluster.kubectl("node-2", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let refusal = |arguments: &[&str], by: &str| {
        let told = cluster.until("it is refused", || cluster.try_kubectl("node-3", arguments).err());
        assert!(told.contains(&format!("denied request: not by {by}")), "{told}");
    };
    refusal(&["scale", "deployment", "web", "--replicas=3"], "scales");
    cluster.kubectl("node-3", &["scale", "deployment", "web", "--replicas=2"]);
    refusal(&["exec", "deployment/web", "--", "rm", "/x"], "commands");
    assert_eq!(cluster.kubectl("node-3", &["exec", "deployment/web", "--", "echo", "a"]), "a\n");
    refusal(&["create", "token", "default", "--duration=2000s"], "tokens");
    cluster.kubectl("node-1", &["create", "token", "default", "--duration=900s"]);

    let pod = cluster.kubectl("node-1", &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]);
    let evict = |query: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}).to_string();
        let (code, status) = cluster.request(2, "POST", &format!("/api/v1/namespaces/default/pods/{pod}/eviction{query}"), Some(&body));
        (code, status["message"].as_str().unwrap_or_default().to_string())
    };
    let (code, told) = evict("");
    assert!(code == 422 && told.contains("not by evictions"), "{code} {told}");
    assert_eq!(evict("?dryRun=All").0, 201);

    let gated = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unbound"}, "spec": {
        "schedulerName": "mine", "containers": [{"name": "c", "image": BUSYBOX}]}});
    cluster.request(1, "POST", "/api/v1/namespaces/default/pods", Some(&gated.to_string()));
    let bind = |node: &str| {
        let body =
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "unbound"}, "target": {"kind": "Node", "name": node}});
        cluster.request(1, "POST", "/api/v1/namespaces/default/pods/unbound/binding", Some(&body.to_string())).0
    };
    assert_eq!((bind("node-3"), bind("node-2")), (422, 201));
}

/// Labels an object with the versions in which it was seen and asked for.
fn label_versions(request: &Value) -> Value {
    let version = |kind: &str| request[kind]["version"].as_str().unwrap_or_default().to_string();
    let label = json!({"seen": version("kind"), "asked": version("requestKind"), "object": request["object"]["apiVersion"].as_str().map(|v| v.replace('/', "."))});
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": label}]).to_string();
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch)})
}

#[test]
fn no_version_of_a_resource_is_a_way_around() {
    let cluster = Cluster::start();
    let policy = |match_policy: &str| {
        format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: busy}}
spec:
  matchConstraints:
    matchPolicy: {match_policy}
    resourceRules: [{{apiGroups: [autoscaling], apiVersions: [v2], operations: [CREATE], resources: [horizontalpodautoscalers]}}]
  validations: [{{expression: "object.spec.metrics.all(m, m.resource.target.averageUtilization <= 80)", message: "too busy"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: busy}}
spec: {{policyName: busy, validationActions: [Deny]}}
"#
        )
    };
    cluster.apply("node-1", &policy("Equivalent"));
    let create = |node: usize, percent: u32| {
        let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": percent}});
        let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers?dryRun=All";
        let (code, answer) = cluster.request(node, "POST", path, Some(&scaler.to_string()));
        (code, answer["message"].as_str().unwrap_or_default().to_string())
    };
    for node in 1..=3 {
        let (_, why) = cluster.until("the policy is in force", || Some(create(node, 90)).filter(|(code, _)| *code == 422));
        assert!(why.contains("ValidatingAdmissionPolicy 'busy' with binding 'busy' denied request: too busy"), "{why}");
    }
    assert_eq!(create(2, 70).0, 201);
    cluster.apply("node-2", &policy("Exact"));
    cluster.until("only the named version is judged", || (create(3, 90).0 == 201).then_some(()));

    let webhook = Server::webhook("198.18.0.1", label_versions);
    cluster.apply(
        "node-1",
        &format!(
            r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: birds.skein.test}}
spec:
  group: skein.test
  scope: Namespaced
  names: {{plural: birds, kind: Bird}}
  versions:
  - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object, properties: {{wings: {{type: integer}}}}}}}}}}
  - {{name: v2, served: true, storage: false, schema: {{openAPIV3Schema: {{type: object, properties: {{wings: {{type: integer}}}}}}}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: birds}}
webhooks:
- name: birds.skein.test
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {{url: "https://{}/judge", caBundle: {}}}
  rules: [{{apiGroups: [skein.test], apiVersions: [v2], operations: [CREATE], resources: [birds]}}]
"#,
            webhook.address, webhook.bundle
        ),
    );
    cluster.kubectl("node-2", &["wait", "--for=condition=Established", "crd/birds.skein.test", "--timeout=30s"]);
    for version in ["v1", "v2"] {
        let bird = format!("apiVersion: skein.test/{version}\nkind: Bird\nmetadata: {{name: goose-{version}}}\nwings: 2\n");
        cluster.until("the kind is known", || cluster.try_kubectl("node-3", &["apply", "-f", &cluster.manifest(&bird)]).ok());
        let found = cluster.kubectl_json("node-1", &["get", "birds.v1.skein.test", &format!("goose-{version}")]);
        assert_eq!(found["metadata"]["labels"], json!({"seen": "v2", "asked": version, "object": "skein.test.v2"}), "{found:#}");
        assert_eq!((&found["wings"], &found["apiVersion"]), (&json!(2), &json!("skein.test/v1")));
    }
}
