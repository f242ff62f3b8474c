//! Custom resources, through any node.

use serde_json::{Value, json};
use skein_cluster_tests::server::{Asked, Options, Server};
use skein_cluster_tests::{BUSYBOX, Cluster};

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations:
            - {rule: \"self.mode != 'wild' || self.size > 1\", message: wild needs company}
            - {rule: self.mode == oldSelf.mode || self.mode == 'wild', message: there is no way back}
            properties:
              size: {type: integer, minimum: 1}
              mode: {type: string, default: calm, enum: [calm, wild]}
          status: {type: object, properties: {size: {type: integer}}}
";

const ONE: &str = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: one}, spec: {size: 3}}";

#[test]
fn custom_resources_live_and_die_with_their_definition() {
    let cluster = Cluster::start();
    cluster.apply("node-1", WIDGETS);
    cluster.kubectl("node-2", &["wait", "crd/widgets.example.com", "--for=condition=Established", "--timeout=10s"]);
    cluster.until("every node serves them", || {
        (1..=3).all(|node| cluster.request(node, "GET", "/apis/example.com/v1/widgets", None).0 == 200).then_some(())
    });
    let services = || cluster.kubectl("node-2", &["get", "apiservices", "-o", "name"]);
    cluster.until("its group is listed beside those built in", || services().contains("/v1.example.com").then_some(()));
    assert!(services().contains("/v1.apps") && services().contains("/v1.\n"), "{}", services());
    let seen = cluster.watch(3, "/apis/example.com/v1/widgets?watch=1&timeoutSeconds=20");
    cluster.apply("node-2", ONE);
    let one = cluster.kubectl_json("node-3", &["get", "wd", "one"]);
    assert_eq!(one["spec"], json!({"size": 3, "mode": "calm"}));
    let table = cluster.kubectl("node-1", &["get", "widgets"]);
    assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["NAME", "SIZE", "one", "3"]);

    let wrong = ONE.replace("size: 3", "size: 0, mode: loud");
    let refused = cluster.kubectl_with_input("node-1", &["apply", "-f", "-", "-o", "name"], &wrong);
    assert_eq!(refused, "");
    let path = "/apis/example.com/v1/namespaces/default/widgets/one";
    let (code, status) = cluster.request(2, "PATCH", path, Some(r#"{"spec":{"size":0}}"#));
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")));
    assert!(status["message"].as_str().unwrap_or_default().contains("spec.size in body should be greater than or equal to 1"), "{status}");

    let change = |node: usize, spec: &str| {
        let (code, status) = cluster.request(node, "PATCH", path, Some(&format!("{{\"spec\":{spec}}}")));
        (code, status["message"].as_str().unwrap_or_default().to_string())
    };
    let said = |what: &str| (422, format!("Widget.example.com \"one\" is invalid: spec: Invalid value: {what}"));
    assert_eq!(change(3, r#"{"mode":"wild","size":1}"#), said("wild needs company"));
    assert_eq!(change(1, r#"{"mode":"wild"}"#).0, 200);
    assert_eq!(change(2, r#"{"mode":"calm"}"#), said("there is no way back"));

    cluster.kubectl("node-3", &["scale", "widget/one", "--replicas=7"]);
    let (_, patched) = cluster.request(1, "PATCH", &format!("{path}/status"), Some(r#"{"spec":{"size":9},"status":{"size":7}}"#));
    assert_eq!((&patched["spec"]["size"], &patched["status"]["size"]), (&json!(7), &json!(7)));
    let explained = cluster.kubectl("node-2", &["explain", "widget.spec.mode"]);
    assert!(explained.contains("ENUM:") && explained.contains("wild"), "{explained}");

    // The definition waits for its objects, and an object for its finalizer.
    cluster.request(1, "PATCH", path, Some(r#"{"metadata":{"finalizers":["example.com/wait"]}}"#));
    cluster.kubectl("node-1", &["delete", "crd", "widgets.example.com", "--wait=false"]);
    cluster.until("the object is being deleted", || {
        let (_, object) = cluster.request(2, "GET", path, None);
        object["metadata"]["deletionTimestamp"].is_string().then_some(())
    });
    cluster.request(3, "PATCH", path, Some(r#"{"metadata":{"finalizers":null}}"#));
    cluster.until("the definition is gone", || {
        (cluster.request(3, "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com", None).0 == 404)
            .then_some(())
    });
    assert_eq!(cluster.request(2, "GET", "/apis/example.com/v1/widgets", None).0, 404);
    let kinds: Vec<String> = seen.join().expect("the watch ends").iter().filter_map(|e| e["type"].as_str().map(String::from)).collect();
    assert_eq!((kinds.first().map(String::as_str), kinds.last().map(String::as_str)), (Some("ADDED"), Some("DELETED")), "{kinds:?}");
}

#[test]
fn appliers_keep_out_of_each_others_way() {
    let cluster = Cluster::start();
    let manifest = |replicas: u32| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: 'skein.test/none:1'}}]}}}}}}}}"
        )
    };
    let apply = |node: &str, replicas: u32, more: &[&str]| {
        let file = cluster.manifest(&manifest(replicas));
        cluster.try_kubectl(node, &[&["apply", "--server-side", "-f", &file], more].concat())
    };
    apply("node-1", 0, &["--field-manager=a"]).expect("nobody else owns it");
    let version = || cluster.kubectl_json("node-2", &["get", "deployment", "web"])["metadata"]["resourceVersion"].clone();
    cluster.until("the controllers have settled", || {
        let status = cluster.kubectl_json("node-1", &["get", "deployment", "web"])["status"]["observedGeneration"].clone();
        (status == 1).then_some(())
    });
    let before = version();
    apply("node-2", 0, &["--field-manager=a"]).expect("the same again");
    assert_eq!(version(), before, "an apply without effect writes nothing");
    let conflict = apply("node-3", 1, &["--field-manager=b"]).expect_err("a owns the replicas");
    assert!(conflict.contains("Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"), "{conflict}");
    apply("node-3", 0, &["--field-manager=b"]).expect("the same value is no conflict");
    apply("node-1", 0, &["--field-manager=b", "--force-conflicts"]).expect("nor is force");
    cluster.kubectl("node-2", &["scale", "deployment", "web", "--replicas=0", "--current-replicas=0"]);
    let owners =
        cluster.kubectl_json("node-1", &["get", "deployment", "web", "--show-managed-fields"])["metadata"]["managedFields"].clone();
    let names: Vec<&str> = owners.as_array().into_iter().flatten().filter_map(|m| m["manager"].as_str()).collect();
    assert!(names.contains(&"a") && names.contains(&"b"), "{names:?}");
}

/// A definition whose versions differ, after the documentation's example: `hostPort` became `host` and `port`.
fn tabs(webhook: &Server, path: &str, stored: &str) -> String {
    let version = |name: &str, properties: &str| {
        format!(
            "  - {{name: {name}, served: true, storage: {}, schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{{properties}}}}}}}}}}}}}\n",
            name == stored
        )
    };
    let versions = [version("v1beta1", "hostPort: {type: string}"), version("v1", "host: {type: string}, port: {type: string}")].concat();
    format!(
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: tabs.example.com}}
spec:
  group: example.com
  scope: Namespaced
  names: {{plural: tabs, kind: Tab}}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {{url: \"https://{}/{path}\", caBundle: {}}}
  versions:
{versions}",
        webhook.address, webhook.bundle
    )
}

fn convert(request: &Value) -> Value {
    let objects = request["objects"].as_array().cloned().unwrap_or_default();
    let desired = request["desiredAPIVersion"].clone();
    let converted: Vec<Value> = objects
        .into_iter()
        .map(|mut object| {
            let text = |field: &str| object["spec"][field].as_str().unwrap_or_default().to_string();
            object["spec"] = if desired == "example.com/v1" {
                let both = text("hostPort");
                let (host, port) = both.split_once(':').unwrap_or((&both, ""));
                json!({"host": host, "port": port})
            } else {
                json!({"hostPort": format!("{}:{}", text("host"), text("port"))})
            };
            object["apiVersion"] = desired.clone();
            object
        })
        .collect();
    json!({"result": {"status": "Success"}, "convertedObjects": converted})
}

#[test]
fn custom_resources_are_converted_between_their_versions() {
    let cluster = Cluster::start();
    let webhook = Server::webhook("198.18.0.1", convert);
    cluster.apply("node-1", &tabs(&webhook, "convert", "v1beta1"));
    cluster.until("every node serves both versions", || {
        let both =
            |node| ["v1", "v1beta1"].iter().all(|v| cluster.request(node, "GET", &format!("/apis/example.com/{v}/tabs"), None).0 == 200);
        (1..=3).all(both).then_some(())
    });
    let path = |version: &str, name: &str| format!("/apis/example.com/{version}/namespaces/default/tabs/{name}");
    let spec = |node: usize, version: &str, name: &str| cluster.request(node, "GET", &path(version, name), None).1["spec"].clone();
    let seen = cluster.watch(2, "/apis/example.com/v1/tabs?watch=1&timeoutSeconds=15");
    let make = |node: usize, version: &str, name: &str, spec: Value| {
        let body = json!({"apiVersion": format!("example.com/{version}"), "kind": "Tab", "metadata": {"name": name}, "spec": spec});
        let (code, answer) = cluster.request(node, "POST", path(version, "").trim_end_matches('/'), Some(&body.to_string()));
        assert_eq!(code, 201, "{answer}");
        answer
    };
    make(1, "v1beta1", "old", json!({"hostPort": "a:1"}));
    let new = make(2, "v1", "new", json!({"host": "b", "port": "2"}));
    assert_eq!((&new["apiVersion"], &new["spec"]), (&json!("example.com/v1"), &json!({"host": "b", "port": "2"})));
    assert_eq!(spec(3, "v1", "old"), json!({"host": "a", "port": "1"}));
    assert_eq!(spec(1, "v1beta1", "new"), json!({"hostPort": "b:2"}));

    // What was stored before stays what it is when another version is stored from now on.
    cluster.apply("node-3", &tabs(&webhook, "convert", "v1"));
    make(3, "v1beta1", "late", json!({"hostPort": "c:3"}));
    let patch = json!({"spec": {"port": "11"}}).to_string();
    assert_eq!(cluster.request(1, "PATCH", &path("v1", "old"), Some(&patch)).1["spec"], json!({"host": "a", "port": "11"}));
    let all = |node: usize, version: &str| -> Vec<Value> {
        let list = cluster.request(node, "GET", &format!("/apis/example.com/{version}/tabs"), None).1;
        list["items"].as_array().cloned().unwrap_or_default().into_iter().map(|tab| tab["spec"].clone()).collect()
    };
    cluster.until("all nodes show all in one version", || {
        let expected = vec![json!({"hostPort": "c:3"}), json!({"hostPort": "b:2"}), json!({"hostPort": "a:11"})];
        (1..=3).all(|node| all(node, "v1beta1") == expected).then_some(())
    });
    assert_eq!(cluster.kubectl("node-2", &["get", "tabs.v1.example.com", "late", "-o", "jsonpath={.spec.port}"]), "3");
    cluster.kubectl("node-1", &["delete", "tabs.v1beta1.example.com", "new"]);
    let events = seen.join().expect("the watch ends");
    let told: Vec<String> =
        events.iter().map(|e| format!("{} {} {}", e["type"], e["object"]["metadata"]["name"], e["object"]["spec"]["port"])).collect();
    let expected = ["ADDED old 1", "ADDED new 2", "ADDED late 3", "MODIFIED old 11", "DELETED new 2"].map(|line| {
        let parts: Vec<String> = line.split(' ').map(|part| format!("\"{part}\"")).collect();
        parts.join(" ")
    });
    assert_eq!(told, expected);

    // A migration writes all of them anew in the version that is stored, and nothing that is right already.
    cluster.apply("node-1", &tabs(&webhook, "convert", "v1beta1"));
    make(1, "v1beta1", "last", json!({"hostPort": "d:4"}));
    cluster.apply("node-1", &tabs(&webhook, "convert", "v1"));
    cluster.kubectl("node-1", &["create", "secret", "generic", "sealed", "--from-literal=a=b"]);
    let version = |what: &str| cluster.kubectl("node-1", &["get", what, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = (version("secret/sealed"), version("tab/late"), version("tab/last"));
    for (group, resource) in [("example.com", "tabs"), ("", "secrets")] {
        let migration = format!(
            "apiVersion: storagemigration.k8s.io/v1\nkind: StorageVersionMigration\nmetadata: {{name: {resource}}}\nspec: {{resource: {{group: \"{group}\", resource: {resource}}}}}\n"
        );
        cluster.apply("node-2", &migration);
        let migration = format!("storageversionmigration/{resource}");
        cluster.kubectl("node-3", &["wait", &migration, "--for=condition=Succeeded", "--timeout=30s"]);
    }
    let after = (version("secret/sealed"), version("tab/late"), version("tab/last"));
    assert_eq!((&before.0, &before.1), (&after.0, &after.1));
    assert_ne!(before.2, after.2);
    let definition = cluster.kubectl_json("node-1", &["get", "crd", "tabs.example.com"]);
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));

    // Where nobody converts, what rests in that version is still there, and the rest says why not.
    cluster.apply("node-1", &tabs(&webhook, "convert", "v1").replace(&webhook.address, "198.18.0.1:9"));
    cluster.until("the definition is everywhere", || (cluster.request(3, "GET", &path("v1beta1", "late"), None).0 == 500).then_some(()));
    assert_eq!(spec(3, "v1", "late"), json!({"host": "c", "port": "3"}));
    assert_eq!(spec(3, "v1", "last"), json!({"host": "d", "port": "4"}));
    let (_, why) = cluster.request(3, "GET", &path("v1beta1", "late"), None);
    let message = why["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("conversion webhook for example.com/v1, Kind=Tab failed: Post \"https://198.18.0.1:9/convert?timeout=30s\""),
        "{why}"
    );
}

/// A server of its own API group: it tells who it was told asks.
fn things(asked: &Asked) -> Value {
    let told = |name: &str| -> Vec<&str> { asked.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect() };
    let thing = |name: &str| {
        json!({"kind": "Thing", "apiVersion": "things.example/v1", "metadata": {"name": name, "namespace": "default"},
            "user": told("x-remote-user"), "groups": told("x-remote-group"), "authorization": told("authorization")})
    };
    match asked.path.split('?').next().unwrap_or_default().trim_start_matches("/apis/things.example/v1") {
        "" => json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.example/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list", "create"], "shortNames": ["th"]}]}),
        "/namespaces/default/things" if asked.method == "POST" => asked.body.clone(),
        "/namespaces/default/things" => {
            json!({"kind": "ThingList", "apiVersion": "things.example/v1", "metadata": {}, "items": [thing("one")]})
        }
        path => thing(path.rsplit('/').next().unwrap_or_default()),
    }
}

/// A Service that leads to a server of this test.
fn leads_to(name: &str, server: &Server) -> String {
    let (host, port) = server.address.split_once(':').expect("an address and a port");
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{port: 443, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [\"{host}\"]}}]
---
"
    )
}

/// That a group is that server's.
fn registration(service: &str, (group, version): (&str, &str), server: &Server) -> String {
    format!(
        "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: {version}.{group}}}
spec: {{group: {group}, version: {version}, groupPriorityMinimum: 1000, versionPriority: 10, caBundle: {}, service: {{name: {service}, namespace: default}}}}
---
",
        server.bundle
    )
}

/// An adapter: how long a queue is, and how many requests a Service has.
fn measures(asked: &Asked) -> Value {
    match asked.path.as_str() {
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=name%3Djobs" => json!({
            "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
            "items": [{"metricName": "queue", "metricLabels": {"name": "jobs"}, "timestamp": "2026-01-01T00:00:00Z", "value": "35"}]}),
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/services/measures/requests" => json!({
            "kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2",
            "items": [{"describedObject": {"kind": "Service", "name": "measures"}, "metric": {"name": "requests"}, "value": "2500m"}]}),
        path => json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path.trim_start_matches("/apis/"), "resources": []}),
    }
}

#[test]
fn autoscalers_follow_what_adapters_measure() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let options = Options { host: "198.18.0.1", names: vec!["measures.default.svc".into()], client_authority: None };
    let server = Server::serve(options, measures);
    let scaled = format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: worker}}
spec:
  selector: {{matchLabels: {{app: worker}}}}
  template: {{metadata: {{labels: {{app: worker}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: {BUSYBOX}, command: [sleep, '3600']}}]}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: worker}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: worker}}
  maxReplicas: 6
  metrics:
  - {{type: External, external: {{metric: {{name: queue, selector: {{matchLabels: {{name: jobs}}}}}}, target: {{type: AverageValue, averageValue: '10'}}}}}}
  - type: Object
    object: {{describedObject: {{apiVersion: v1, kind: Service, name: measures}}, metric: {{name: requests}}, target: {{type: AverageValue, averageValue: '1'}}}}
"
    );
    cluster.apply("node-1", &scaled);
    let autoscaler = || cluster.kubectl_json("node-2", &["get", "hpa", "worker"])["status"].clone();
    cluster.until("it says that nobody measures", || {
        let conditions = autoscaler()["conditions"].as_array().cloned().unwrap_or_default();
        let active = conditions.into_iter().find(|c| c["type"] == "ScalingActive")?;
        let why = "unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered";
        (active["reason"] == "FailedGetExternalMetric" && active["message"].as_str()?.ends_with(why)).then_some(())
    });
    let groups = [("external.metrics.k8s.io", "v1beta1"), ("custom.metrics.k8s.io", "v1beta2")];
    cluster.apply("node-3", &leads_to("measures", &server));
    for group in groups {
        cluster.apply("node-1", &registration("measures", group, &server));
    }
    cluster.until("the queue has the workers that it asks for", || {
        let status = autoscaler();
        let current = |index: usize, kind: &str| status["currentMetrics"][index][kind]["current"]["averageValue"].clone();
        let found = cluster.kubectl_json("node-3", &["get", "deployment", "worker"])["status"]["readyReplicas"].clone();
        (found == 4 && status["desiredReplicas"] == 4 && current(0, "external") == "8750m" && current(1, "object") == "625m").then_some(())
    });
}

#[test]
fn other_servers_answer_for_their_groups() {
    let cluster = Cluster::start();
    let [authority, ..] = cluster.credentials();
    let client_authority = std::fs::read(authority).expect("the CA can be read");
    let server = Server::serve(
        Options { host: "198.18.0.1", names: vec!["things.default.svc".into()], client_authority: Some(client_authority) },
        things,
    );
    let service = leads_to("things", &server);
    cluster.apply("node-1", &registration("things", ("things.example", "v1"), &server));
    cluster.until("it is told that there is no Service", || {
        let found = cluster.kubectl("node-2", &["get", "apiservice", "v1.things.example"]);
        found.contains("False (ServiceNotFound)").then_some(())
    });
    assert_eq!(cluster.request(3, "GET", "/apis/things.example/v1/namespaces/default/things", None).0, 503);
    cluster.apply("node-2", &service);
    cluster.kubectl("node-3", &["wait", "apiservice/v1.things.example", "--for=condition=Available", "--timeout=30s"]);

    // Every node finds it, lists it and sends requests on in the name of who asks.
    for node in ["node-1", "node-2", "node-3"] {
        cluster.until("kubectl knows the short name", || cluster.try_kubectl(node, &["get", "th", "one"]).ok());
        let thing = cluster.kubectl_json(node, &["get", "things.v1.things.example", "two"]);
        assert_eq!((&thing["user"], &thing["authorization"]), (&json!(["admin"]), &json!([])));
        assert!(cluster.kubectl(node, &["api-resources", "--api-group=things.example"]).contains("things.example/v1"));
    }
    let made = r#"{"kind":"Thing","apiVersion":"things.example/v1","metadata":{"name":"three"}}"#;
    assert_eq!(cluster.request(2, "POST", "/apis/things.example/v1/namespaces/default/things", Some(made)).1["metadata"]["name"], "three");

    // Who may not, does not reach it; who may, is who he is.
    cluster.kubectl("node-1", &["create", "serviceaccount", "reader"]);
    let token = cluster.kubectl("node-1", &["create", "token", "reader"]);
    let path = "/apis/things.example/v1/namespaces/default/things/one";
    let (code, refused) = cluster.request_as(2, Some(token.trim()), path);
    assert_eq!(code, 403);
    assert!(
        refused["message"].as_str().is_some_and(|m| m.contains("cannot get resource \"things\" in API group \"things.example\"")),
        "{refused}"
    );
    cluster.kubectl("node-1", &["create", "role", "reader", "--verb=get", "--resource=things.things.example"]);
    cluster.kubectl("node-1", &["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader"]);
    let thing =
        cluster.until("the role is known", || Some(cluster.request_as(3, Some(token.trim()), path)).filter(|(code, _)| *code == 200));
    assert_eq!(thing.1["user"], json!(["system:serviceaccount:default:reader"]));
    assert!(thing.1["groups"].as_array().is_some_and(|groups| groups.contains(&json!("system:serviceaccounts:default"))), "{}", thing.1);

    // The servers are told whom they may believe.
    let map = cluster.kubectl_json("node-2", &["get", "configmap", "extension-apiserver-authentication", "-n", "kube-system"]);
    let names = map["data"]["requestheader-allowed-names"].as_str().unwrap_or_default().to_string();
    assert!((1..=3).all(|node| names.contains(&format!("system:node:node-{node}"))), "{names}");
    cluster.kubectl("node-3", &["delete", "apiservice", "v1.things.example"]);
    cluster.until("it is gone", || (cluster.request(1, "GET", path, None).0 == 404).then_some(()));
}
