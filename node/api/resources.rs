//! The few kinds that behave in a way of their own, and what is added to objects on admission.

pub(crate) mod binding;
pub(crate) mod certificate;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod measured;
mod metrics;
mod pod_certificate;
pub(crate) mod proxy;
pub(crate) mod quota;
pub(crate) mod review;
pub(crate) mod scale;
pub(crate) mod service;
pub(crate) mod stream;
pub(crate) mod token;

use serde_json::{Value, json};
use skein_command::Write;
use skein_object::admission::{self, Surroundings, pod_security};
use skein_object::field::Errors;
use skein_object::meta::{self, Birth};
use skein_object::{Key, Resource, Status, registry};

use crate::Context;
use crate::admit::Caller;
use crate::route::Target;

/// What the admission plugins of Kubernetes add to a new object, or why they refuse it.
pub(crate) fn admit_creation(context: &Context, target: &Target, object: &mut Value) -> Result<(), Status> {
    let state = context.store.local().state;
    let template = match target.resource.stored() {
        "pods" => Some(&*object),
        "cronjobs.batch" => object.pointer("/spec/jobTemplate/spec/template"),
        _ => object.pointer("/spec/template").filter(|template| template.pointer("/spec/containers").is_some()),
    };
    if let Some(template) = template
        && let Some(home) = state.show(&Key::new("namespaces", "", &target.namespace))
        && let Some(warning) = pod_security::violation(pod_security::Mode::Warn, &home, template)
    {
        target.caller.warnings.add(warning);
    }
    let (get, list) = (|key: &Key| state.show(key), |resource: &str| state.show_all(resource));
    match target.resource.stored() {
        "pods" | "persistentvolumeclaims" => {
            let around = Surroundings { get: &get, list: &list, suffix: &meta::suffix(rand::random) };
            let name = meta::name(object).to_string();
            let refused = |why: String| Status::forbidden(&target.resource, &name, &why);
            let admitted = if target.resource.stored() == "pods" {
                admission::pod(object, &target.namespace, &around)
            } else {
                admission::claim(object, &target.namespace, &list)
            };
            return admitted.map_err(refused);
        }
        certificate::REQUESTS => return certificate::admit(target, object),
        "nodes" => admission::node(object),
        "volumeattributesclasses.storage.k8s.io" => admission::attributes_class(object),
        "persistentvolumes" => admission::volume(object, &meta::time(jiff::Timestamp::now())),
        _ => {}
    }
    Ok(())
}

/// Why the admission plugins of Kubernetes refuse a new object that is valid.
pub(crate) fn judge_creation(context: &Context, target: &Target, object: &Value) -> Result<(), Status> {
    if target.resource.stored() != "pods" {
        return Ok(());
    }
    let state = context.store.local().state;
    let judged = admission::judge_pod(object, &target.namespace, &|key| state.show(key));
    judged.map_err(|why| Status::forbidden(&target.resource, meta::name(object), &why))
}

/// Why the admission plugins of Kubernetes refuse a change.
pub(crate) fn admit_update(context: &Context, resource: &Resource, new: &Value, old: &Value) -> Result<(), Status> {
    if resource.stored() != "persistentvolumeclaims" {
        return Ok(());
    }
    let state = context.store.local().state;
    admission::expansion(new, old, &|key| state.show(key)).map_err(|why| Status::forbidden(resource, meta::name(new), &why))
}

/// Says what is wrong with a new object that only more than its schema tells.
pub(crate) fn check_creation(resource: &Resource, object: &Value, errors: &mut Errors) {
    if resource.stored() == pod_certificate::REQUESTS && errors.is_empty() {
        pod_certificate::check(object, errors);
    }
}

/// The same of a status that somebody writes.
pub(crate) fn check_status(resource: &Resource, new: &Value, old: &Value, errors: &mut Errors) {
    if resource.stored() == pod_certificate::REQUESTS && errors.is_empty() {
        pod_certificate::check_answer(new, old, jiff::Timestamp::now(), errors);
    }
}

/// Whether the caller may write what he writes to a status.
pub(crate) fn may_write_status(context: &Context, caller: &Caller, resource: &Resource, change: (&Value, &Value)) -> Result<(), Status> {
    let (new, old) = change;
    match resource.stored() {
        pod_certificate::REQUESTS => {
            pod_certificate::may_answer(context, caller, new, old).map_err(|errors| Status::invalid(resource, meta::name(old), errors))
        }
        _ => Ok(()),
    }
}

/// What is made together with a new object: a namespace has its default ServiceAccount from the first moment.
pub(crate) fn companions(resource: &Resource, object: &Value) -> Vec<Write> {
    if resource.stored() != "namespaces" {
        return Vec::new();
    }
    let accounts = registry::find("", "v1", "serviceaccounts").expect("the registry has service accounts");
    let mut account = json!({"metadata": {"name": "default"}});
    let (uid, now) = (uuid::Uuid::new_v4().to_string(), meta::time(jiff::Timestamp::now()));
    meta::at_creation(&mut account, accounts, meta::name(object), &Birth { uid: &uid, now: &now, suffix: "" });
    let key = Key::new(accounts.stored(), meta::name(object), "default");
    let write = Write { in_active_namespace: false, expect: None, ..Write::create(&key, accounts.record(&account)) };
    vec![write]
}

/// The container that is meant: the one named, the annotated default, or the only one.
pub(crate) fn container(pod: &Value, target: &Target) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(String::from)).collect()
    };
    let (containers, inits, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match (target.query.get("container"), containers.as_slice()) {
        (Some(name), _) if containers.iter().chain(&inits).chain(&ephemeral).any(|c| c == name) => Ok(name.into()),
        (Some(name), _) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", target.name))),
        (None, [one]) => Ok(one.clone()),
        (None, many) => {
            let extra = if inits.is_empty() { String::new() } else { format!(" or one of the init containers: [{}]", inits.join(" ")) };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]{extra}",
                target.name,
                many.join(" ")
            )))
        }
    }
}
