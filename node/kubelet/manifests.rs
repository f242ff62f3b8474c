//! Static Pods: manifests in a directory of this node, which run whether the cluster answers or not. The API shows each as
//! a mirror, which nobody but this node makes or removes for good (`pkg/kubelet/config`, `pkg/kubelet/pod`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::field::Errors;
use skein_object::volume::digest;
use skein_object::{Key, meta, registry};
use skein_store::Handle as Store;
use tracing::{info, warn};

use crate::{Error, Options, write};

const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The static Pods of a node, by uid, each as a Pod that is bound there.
pub(crate) type Manifests = BTreeMap<String, Value>;

/// Whether a Pod of the API only shows what a node has.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// What is in the directory now. A file that is no Pod is told of and passed over.
pub(crate) fn read(options: &Options) -> Manifests {
    let Some(directory) = &options.manifests else { return Manifests::new() };
    let mut paths: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file() && !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    paths.sort();
    let mut found = Manifests::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|why| why.to_string());
        match text.and_then(|text| pod(&text, &path, &options.name)) {
            Ok(pod) => drop(found.insert(meta::text(&pod, "uid").to_string(), pod)),
            Err(why) => warn!(path = %path.display(), why, "cannot be a static Pod"),
        }
    }
    found
}

/// A manifest as the Pod that this node makes of it.
fn pod(text: &str, path: &Path, node: &str) -> Result<Value, String> {
    let mut pod: Value = serde_yaml_ng::from_str(text).map_err(|why| format!("couldn't parse as pod: {why}"))?;
    if pod["apiVersion"] != "v1" || pod["kind"] != "Pod" {
        return Err(format!("invalid pod: it is a {} of {}", pod["kind"], pod["apiVersion"]));
    }
    let resource = registry::by_key("pods").expect("the registry has Pods");
    let findings = resource.conform(&mut pod);
    if let Some(wrong) = findings.mismatched.first() {
        return Err(wrong.clone());
    }
    let name = meta::name(&pod).to_string();
    if name.is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    let namespace = Some(meta::text(&pod, "namespace")).filter(|text| !text.is_empty()).unwrap_or("default").to_string();
    let hash = digest(&[&pod.to_string(), "host:", node, "file:", &path.display().to_string()])[..32].to_string();
    let now = meta::time(Timestamp::now());
    meta::at_creation(&mut pod, resource, &namespace, &meta::Birth { uid: &hash, now: &now, suffix: "" });
    let metadata = meta::edit(&mut pod);
    metadata.insert("name".into(), format!("{name}-{}", node.to_lowercase()).into());
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    for (key, value) in [(HASH, hash.as_str()), (SOURCE, "file"), (MIRROR, &hash)] {
        annotations[key] = value.into();
    }
    pod["spec"]["nodeName"] = node.into();
    let tolerations = &mut pod["spec"]["tolerations"];
    if !tolerations.is_array() {
        *tolerations = json!([]);
    }
    // It stays whatever becomes of the node.
    tolerations.as_array_mut().into_iter().for_each(|list| list.push(json!({"operator": "Exists", "effect": "NoExecute"})));
    pod["status"] = json!({"phase": "Pending"});
    resource.fill_defaults(&mut pod);
    let mut errors = Errors::default();
    meta::validate(&pod, resource, &mut errors);
    resource.check(&pod, None, &mut errors);
    if errors.is_empty() { Ok(pod) } else { Err(format!("invalid pod: {errors}")) }
}

/// A static Pod with the status that the API has of it.
pub(crate) fn with_status(manifest: &Value, mirror: Option<&Pod>) -> Option<Pod> {
    let mut pod: Pod = serde_json::from_value(manifest.clone()).ok()?;
    if let Some(status) = mirror.and_then(|mirror| mirror.status.clone()) {
        pod.status = Some(status);
    }
    Some(pod)
}

/// Brings the API to show this node's static Pods and no others.
pub(crate) async fn mirror(options: &Options, store: &Store, manifests: &Manifests) -> Result<(), Error> {
    let view = store.local();
    let node = view.state.get(&Key::new("nodes", "", &options.name)).and_then(|entry| entry.record.field("metadata"));
    let Some(node) = node.and_then(|metadata| metadata["uid"].as_str().map(String::from)) else { return Ok(()) };
    let pods = registry::find("", "v1", "pods").expect("the registry has Pods");
    for (uid, manifest) in manifests {
        let key = Key::new("pods", meta::text(manifest, "namespace"), meta::name(manifest));
        let Some(entry) = view.state.get(&key) else {
            let mut object = manifest.clone();
            meta::edit(&mut object).insert(
                "ownerReferences".into(),
                json!([{"apiVersion": "v1", "kind": "Node", "name": options.name, "uid": node, "controller": true}]),
            );
            store.propose(write::create(pods, key.namespace(), object).into()).await?;
            info!(pod = %key, "a static Pod is shown");
            continue;
        };
        let Some(found) = entry.record.typed::<Pod>(entry.revision).filter(is_mirror) else { continue };
        // Whoever deletes a mirror deletes nothing that runs.
        if found.metadata.uid.as_ref() != Some(uid) || found.metadata.deletion_timestamp.is_some() {
            store.propose(Write::delete(&key, entry.revision).into()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";
        let made = |text: &str| pod(text, Path::new("/m/web.yaml"), "node-1");
        let found = made(text).expect("a Pod");
        assert_eq!((meta::name(&found), meta::text(&found, "namespace")), ("web-node-1", "default"));
        assert_eq!(found["spec"]["nodeName"], "node-1");
        assert_eq!(found["metadata"]["annotations"][SOURCE], "file");
        assert_eq!(found["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        assert_eq!(found["status"]["qosClass"], "BestEffort");
        // The same file is the same Pod, another is another.
        assert_eq!(meta::text(&made(text).expect("a Pod"), "uid"), meta::text(&found, "uid"));
        assert_ne!(meta::text(&made(&text.replace("image: i", "image: j")).expect("a Pod"), "uid"), meta::text(&found, "uid"));
        let refused = |text: &str| made(text).err().unwrap_or_default();
        assert_eq!(refused(&text.replace("{name: web}", "{}")), "invalid pod: name is needed for the pod");
        assert!(refused(&text.replace("kind: Pod", "kind: Service")).starts_with("invalid pod"));
        assert!(refused(&text.replace("image: i", "image: ''")).contains("spec.containers[0].image: Required value"));
    }
}
