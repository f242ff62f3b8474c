//! Drives a cluster with kube-rs: `client-rust KUBECONFIG CONTEXT IMAGE`. Prints what it has seen to hold, and ends
//! with 1 at the first thing that does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, LogParams, ObjectList, PartialObjectMeta, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{self, Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config, CustomResource, CustomResourceExt as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NAMESPACE: &str = "rust-client";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "rust.example.com", version = "v1", kind = "Widget", namespaced, status = "WidgetStatus", shortname = "wd")]
struct WidgetSpec {
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    size: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct WidgetStatus {
    seen: i64,
}

fn two() -> i64 {
    2
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, context, image, ..] = &arguments[..] else { bail!("usage: client-rust KUBECONFIG CONTEXT IMAGE") };
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let client = Client::try_from(Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?)?;
    objects(&client).await.context("objects live and are refused")?;
    println!("ok: objects live and are refused");
    reflectors(&client).await.context("reflectors see every change")?;
    println!("ok: reflectors see every change");
    controllers(&client).await.context("a controller of custom resources")?;
    println!("ok: a controller of custom resources");
    pods(&client, image).await.context("a Pod runs, speaks and listens")?;
    println!("ok: a Pod runs, speaks and listens");
    Ok(())
}

/// That a call is refused with this code and reason.
fn refused<T: std::fmt::Debug>(code: u16, reason: &str, answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.reason == reason => Ok(()),
        other => bail!("not refused with {code} {reason}: {other:?}"),
    }
}

fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<String, String> = data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, data: Some(data), ..ConfigMap::default() }
}

async fn objects(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace { metadata: ObjectMeta { name: Some(NAMESPACE.into()), ..ObjectMeta::default() }, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await?;

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let made = maps.create(&PostParams::default(), &config_map("a", &[("k", "1")])).await?;
    let newer = ConfigMap { data: config_map("a", &[("k", "2")]).data, ..made };
    maps.replace("a", &PostParams::default(), &newer).await?;
    refused(409, "Conflict", maps.replace("a", &PostParams::default(), &newer).await)?;
    refused(409, "AlreadyExists", maps.create(&PostParams::default(), &config_map("a", &[])).await)?;
    refused(404, "NotFound", maps.get("nobody").await)?;
    ensure!(maps.get_opt("nobody").await?.is_none());
    refused(422, "Invalid", maps.create(&PostParams::default(), &config_map("Not A Name", &[])).await)?;

    let applied = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b" }, "data": { "k": "1" } });
    maps.patch("b", &PatchParams::apply("one"), &Patch::Apply(&applied)).await?;
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b" }, "data": { "k": "2" } });
    refused(409, "Conflict", maps.patch("b", &PatchParams::apply("two"), &Patch::Apply(&other)).await)?;
    let taken = maps.patch("b", &PatchParams::apply("two").force(), &Patch::Apply(&other)).await?;
    ensure!(taken.data == config_map("b", &[("k", "2")]).data, "{taken:?}");

    let first: ObjectList<ConfigMap> = maps.list(&ListParams::default().limit(1)).await?;
    let token = first.metadata.continue_.clone().context("the list has more pages")?;
    let rest = maps.list(&ListParams::default().limit(100).continue_token(&token)).await?;
    let names: Vec<String> = first.iter().chain(rest.iter()).map(|map| map.name_any()).collect();
    ensure!(names.starts_with(&["a".into(), "b".into()]), "{names:?}");
    let metadata: PartialObjectMeta<ConfigMap> = maps.get_metadata("a").await?;
    ensure!(metadata.types.as_ref().is_some_and(|types| types.kind == "PartialObjectMetadata"), "{:?}", metadata.types);
    Ok(())
}

async fn reflectors(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (store, writer) = reflector::store();
        let mut changes = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects().boxed();
        let mut next = async |name: &str| -> Result<ConfigMap> {
            loop {
                let map = tokio::time::timeout(PATIENCE, changes.try_next()).await??.context("the watch ended")?;
                if map.name_any() == name {
                    return Ok(map);
                }
            }
        };
        next("b").await?;
        maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({ "data": { "n": "1" } }))).await?;
        next("b").await?;
        maps.create(&PostParams::default(), &config_map("c", &[])).await?;
        next("c").await?;
        ensure!(store.get(&reflector::ObjectRef::new("c").within(NAMESPACE)).is_some());
        maps.delete("c", &DeleteParams::default()).await?;
        maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({ "data": { "n": null } }))).await?;
        next("b").await?;
        ensure!(store.get(&reflector::ObjectRef::new("c").within(NAMESPACE)).is_none());
    }
    Ok(())
}

/// An operator as kube-rs' users write one: it waits for its definition, holds widgets by a finalizer, and tells of
/// them in their status.
async fn controllers(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Widget::crd_name();
    definitions.patch(name, &PatchParams::apply("rust"), &Patch::Apply(Widget::crd())).await?;
    tokio::time::timeout(PATIENCE, await_condition(definitions.clone(), name, conditions::is_crd_established())).await??;

    let widgets: Api<Widget> = Api::namespaced(client.clone(), NAMESPACE);
    let released = Arc::new(AtomicUsize::new(0));
    let context = Arc::new((widgets.clone(), released.clone()));
    let operator = Controller::new(widgets.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context)
        .for_each(|_| futures::future::ready(()));
    let operator = tokio::spawn(operator);

    let body = json!({ "apiVersion": "rust.example.com/v1", "kind": "Widget", "metadata": { "name": "w" }, "spec": {} });
    widgets.patch("w", &PatchParams::apply("user"), &Patch::Apply(&body)).await?;
    let is_seen = |widget: Option<&Widget>| widget.and_then(|w| w.status.as_ref()).is_some_and(|status| status.seen == 2);
    tokio::time::timeout(PATIENCE, await_condition(widgets.clone(), "w", is_seen)).await??;
    let uid = widgets.get("w").await?.uid().context("it has a uid")?;
    let wrong = json!({ "spec": { "size": 0 } });
    refused(422, "Invalid", widgets.patch("w", &PatchParams::default(), &Patch::Merge(&wrong)).await)?;
    widgets.delete("w", &DeleteParams::default()).await?;
    tokio::time::timeout(PATIENCE, await_condition(widgets.clone(), "w", conditions::is_deleted(&uid))).await??;
    ensure!(released.load(Ordering::Relaxed) == 1, "the finalizer was not asked once");
    operator.abort();
    definitions.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

type Operator = (Api<Widget>, Arc<AtomicUsize>);

async fn reconcile(widget: Arc<Widget>, context: Arc<Operator>) -> Result<Action, Box<finalizer::Error<kube::Error>>> {
    let (widgets, released) = &*context;
    finalizer(widgets, "rust.example.com/held", widget, |event| async {
        match event {
            Finalizer::Apply(widget) => {
                let status = json!({ "status": { "seen": widget.spec.size } });
                widgets.patch_status(&widget.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
            }
            Finalizer::Cleanup(_) => {
                released.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Action::await_change())
    })
    .await
    .map_err(Box::new)
}

async fn pods(client: &Client, image: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "p" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": image, "imagePullPolicy": "Never",
            "command": ["sh", "-c", "echo begun; httpd -p 80 -h /tmp; sleep 1000"],
        }] },
    }))?;
    let made = pods.create(&PostParams::default(), &pod).await?;
    let version = made.resource_version().context("it has a version")?;
    let mut events = pods.watch(&WatchParams::default().fields("metadata.name=p").timeout(60), &version).await?.boxed();
    loop {
        match events.try_next().await?.context("it never ran")? {
            WatchEvent::Modified(pod) if pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")) => break,
            _ => {}
        }
    }
    ensure!(pods.logs("p", &LogParams::default()).await? == "begun\n");

    let parameters = AttachParams::default().stdin(true).stderr(true);
    let mut run = pods.exec("p", ["sh", "-c", "cat; echo err >&2; exit 3"], &parameters).await?;
    let (mut input, mut output) = (run.stdin().context("stdin")?, run.stdout().context("stdout")?);
    input.write_all(b"in\n").await?;
    input.shutdown().await?;
    let mut said = String::new();
    output.read_to_string(&mut said).await?;
    let mut errors = String::new();
    run.stderr().context("stderr")?.read_to_string(&mut errors).await?;
    ensure!((said.as_str(), errors.as_str()) == ("in\n", "err\n"), "{said:?} {errors:?}");
    let status = run.take_status().context("a status")?.await.context("it says how it ended")?;
    let code =
        status.details.and_then(|d| d.causes).unwrap_or_default().into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    ensure!(code.and_then(|cause| cause.message).as_deref() == Some("3"));

    let mut forwarder = pods.portforward("p", &[80]).await?;
    let mut socket = forwarder.take_stream(80).context("a stream")?;
    socket.write_all(b"GET /nothing HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    ensure!(answer.contains("404"), "{answer}");
    pods.delete("p", &DeleteParams::default()).await?;
    Ok(())
}
