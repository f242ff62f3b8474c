//! `pods/eviction`: a deletion that asks the disruption budgets first (`pkg/registry/core/pod/storage/eviction.go`).

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::selector::Selector;
use skein_object::status::{Cause, Details};
use skein_object::{Key, Status, meta, registry};
use skein_state::{Entry, State};

use crate::admit::{admit_part, restrict_part};
use crate::route::Target;
use crate::verbs::{delete, to_value, view};
use crate::{Body, Context, body, respond};

const BUDGETS: &str = "poddisruptionbudgets.policy";

/// How long a client should wait where the budgets are being counted anew.
const RETRY_SECONDS: u32 = 10;

pub(crate) async fn create(context: &Context, target: &Target, request: Request<Bytes>) -> Result<Response<Body>, Status> {
    let headers = request.headers().clone();
    let eviction = body::decode(&headers, request.body())?;
    let view = view(context, target).await?;
    let entry = view.state.get(&target.key()).ok_or_else(|| Status::not_found(&target.resource, &target.name))?;
    let pod = to_value(&target.resource, entry);
    restrict_part(context, target, &eviction, &pod)?;
    let eviction = admit_part(context, target, "CREATE", eviction, &Value::Null).await?;
    let options = eviction.get("deleteOptions").cloned().filter(Value::is_object).unwrap_or(json!({}));
    let budget = if counts(&pod) { charge(&view.state, target, &pod)? } else { None };
    delete::with(context, target, options, budget).await?;
    Ok(respond::json(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

/// Pods that have ended, wait for a node or are going already are no loss.
fn counts(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && !meta::is_terminating(pod)
}

/// Takes one off the budget of a Pod, if it has one and that allows it.
fn charge(state: &State, target: &Target, pod: &Value) -> Result<Option<Write>, Status> {
    let resource = registry::by_key(BUDGETS).expect("the registry has budgets");
    let labels = meta::labels(pod);
    let prefix = Key::prefix(BUDGETS, &target.namespace);
    let selects = |entry: &Entry| {
        let selector = entry.record.field("spec").and_then(|s| s.get("selector").cloned());
        let selector = selector.and_then(|s| serde_json::from_value(s).ok());
        selector.is_some_and(|s| Selector::from_label_selector(&s).matches(&labels))
    };
    let budgets: Vec<(&Key, &Entry)> = state.range(&prefix, None).filter(|(_, entry)| selects(entry)).collect();
    let [(key, entry)] = budgets.as_slice() else {
        if budgets.is_empty() {
            return Ok(None);
        }
        return Err(Status::failure(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    };
    let mut budget = resource.show(&entry.record, entry.revision);
    let number = |field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let is_counted = number("observedGeneration") >= meta::generation(&budget);
    let allowed = number("disruptionsAllowed");
    if !is_counted || allowed <= 0 {
        return Err(refused(key.name(), is_counted, number("desiredHealthy"), number("currentHealthy")));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    Ok(Some(Write::update(key, entry.revision, &entry.record, &resource.record(&budget))))
}

fn refused(budget: &str, is_counted: bool, desired: i64, current: i64) -> Status {
    let message = if is_counted {
        format!("The disruption budget {budget} needs {desired} healthy pods and has {current} currently")
    } else {
        format!("The disruption budget {budget} is still being processed by the server.")
    };
    let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
    let retry_after_seconds = (!is_counted).then_some(RETRY_SECONDS);
    Status::failure(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.").about(Details {
        causes: vec![cause],
        retry_after_seconds,
        ..Details::default()
    })
}
