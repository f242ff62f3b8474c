"""Drives a cluster with the official Python client: client.py KUBECONFIG CONTEXT IMAGE.

Prints what it has seen to hold; an exception ends it with 1.
"""

import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python-client"
WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.python.example.com"},
    "spec": {
        "group": "python.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{
            "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1, "default": 2}}},
                "status": {"type": "object", "properties": {"seen": {"type": "integer"}}},
            }}},
        }],
    },
}


def refused(code, reason, call, *arguments, **options):
    """The API's answer to what it must refuse."""
    try:
        call(*arguments, **options)
    except ApiException as why:
        assert why.status == code and f'"reason":"{reason}"' in why.body.replace(" ", ""), why
        return why.body
    raise AssertionError(f"{call.__name__} was not refused")


def objects(api):
    core = client.CoreV1Api(api)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "1"})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    made.data["k"] = "2"
    core.replace_namespaced_config_map("a", NAMESPACE, made)
    refused(409, "Conflict", core.replace_namespaced_config_map, "a", NAMESPACE, made)
    patched = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"l": "3"}})
    assert patched.data == {"k": "2", "l": "3"}, patched.data
    assert [m.metadata.name for m in core.list_namespaced_config_map(NAMESPACE, label_selector="x in (y)").items] == ["a"]
    refused(404, "NotFound", core.read_namespaced_config_map, "nobody", NAMESPACE)
    body.metadata.name = "Not A Name"
    assert "metadata.name" in refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, body)
    quota = client.V1ResourceQuota(metadata=client.V1ObjectMeta(name="q"), spec=client.V1ResourceQuotaSpec(hard={"secrets": "0"}))
    core.create_namespaced_resource_quota(NAMESPACE, quota)
    # A quota binds once it has been counted, here as in Kubernetes.
    for _ in range(100):
        if core.read_namespaced_resource_quota("q", NAMESPACE).status.hard:
            break
        time.sleep(0.1)
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"))
    refused(403, "Forbidden", core.create_namespaced_secret, NAMESPACE, secret)


def pods(api, image):
    core = client.CoreV1Api(api)
    container = client.V1Container(
        name="c", image=image, image_pull_policy="Never", command=["sh", "-c", "echo begun; httpd -p 80 -h /tmp; sleep 1000"]
    )
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name="p"), spec=spec)
    first = core.create_namespaced_pod(NAMESPACE, pod).metadata.resource_version
    phases = []
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, resource_version=first, timeout_seconds=30):
        phases.append(event["object"].status.phase)
        if phases[-1] == "Running":
            break
    assert phases[-1] == "Running", phases
    assert core.read_namespaced_pod_log("p", NAMESPACE) == "begun\n"
    said = stream(core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=["echo", "hello"], stdout=True, stderr=True)
    assert said == "hello\n", said
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", NAMESPACE, ports="80")
    socket = forward.socket(80)
    socket.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
    socket.settimeout(10)
    answer = socket.recv(100)
    assert b"404" in answer, answer
    socket.close()
    core.delete_namespaced_pod("p", NAMESPACE)


def custom_resources(api):
    resources = dynamic.DynamicClient(api)
    definitions = resources.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    definitions.create(body=WIDGETS)
    for _ in range(50):
        try:
            resources.resources.invalidate_cache()
            widgets = resources.resources.get(api_version="python.example.com/v1", kind="Widget")
            break
        except dynamic.exceptions.ResourceNotFoundError:
            time.sleep(0.1)
    body = {"apiVersion": "python.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}}
    made = widgets.create(body=body, namespace=NAMESPACE)
    assert made.spec.size == 2, made
    applied = widgets.server_side_apply(
        body={**body, "spec": {"size": 5}}, name="w", namespace=NAMESPACE, field_manager="python", force_conflicts=True
    )
    assert applied.spec.size == 5 and applied.metadata.generation == 2, applied
    refused(422, "Invalid", widgets.patch, body={**body, "spec": {"size": 0}}, namespace=NAMESPACE, content_type="application/merge-patch+json")
    definitions.delete(name=WIDGETS["metadata"]["name"])


def main():
    path, context, image, *_ = sys.argv[1:]
    api = config.new_client_from_config(config_file=path, context=context)
    for name, step in {
        "objects live and are refused": lambda: objects(api),
        "a Pod runs, speaks and listens": lambda: pods(api, image),
        "custom resources": lambda: custom_resources(api),
    }.items():
        step()
        print("ok:", name)


main()
