//! Objects of custom resources between their versions: as they are, or by the webhook of their definition.

use serde_json::Value;
use skein_object::custom::conversion::{Conversion, TIMEOUT_SECONDS};
use skein_object::{Record, Resource, Status};
use skein_state::{Entry, State};

use crate::call;

/// Objects as a resource shows them.
pub(crate) async fn shown(state: &State, resource: &Resource, entries: &[Entry]) -> Result<Vec<Value>, Status> {
    let show = |entry: &Entry| resource.show(&entry.record, entry.revision);
    let Some(conversion) = resource.conversion() else { return Ok(entries.iter().map(show).collect()) };
    let desired = resource.api_version();
    let mut objects: Vec<Value> = entries.iter().map(|entry| resource.at_rest(&entry.record, entry.revision)).collect();
    // One call for each version in which some of them rest.
    let mut versions: Vec<String> = objects.iter().filter_map(|object| object["apiVersion"].as_str().map(String::from)).collect();
    versions.sort();
    versions.dedup();
    for version in versions.into_iter().filter(|version| *version != desired) {
        let (places, asked): (Vec<usize>, Vec<Value>) = objects
            .iter()
            .enumerate()
            .filter(|(_, object)| object["apiVersion"] == version.as_str())
            .map(|(at, o)| (at, o.clone()))
            .unzip();
        let converted = ask(state, resource, conversion, &desired, &asked).await?;
        places.into_iter().zip(converted).for_each(|(at, object)| objects[at] = object);
    }
    objects.iter_mut().for_each(|object| resource.fill_managed(object));
    Ok(objects)
}

/// One object as a resource shows it.
pub(crate) async fn shown_one(state: &State, resource: &Resource, entry: &Entry) -> Result<Value, Status> {
    let mut objects = shown(state, resource, std::slice::from_ref(entry)).await?;
    objects.pop().ok_or_else(|| Status::internal("a conversion left nothing"))
}

/// An object as it rests.
pub(crate) async fn stored(state: &State, resource: &Resource, object: &Value) -> Result<Record, Status> {
    match resource.conversion() {
        Some(conversion) if resource.storage_version() != resource.api_version() => {
            let desired = resource.storage_version();
            let mut converted = ask(state, resource, conversion, &desired, std::slice::from_ref(object)).await?;
            Ok(resource.record(&converted.pop().unwrap_or_default()))
        }
        _ => Ok(resource.record(object)),
    }
}

async fn ask(state: &State, resource: &Resource, conversion: &Conversion, desired: &str, objects: &[Value]) -> Result<Vec<Value>, Status> {
    let uid = uuid::Uuid::new_v4().to_string();
    let review = conversion.review(desired, objects, &uid);
    let answer = call::post(state, &conversion.client, TIMEOUT_SECONDS, &review).await;
    let converted = answer.and_then(|answer| conversion.verdict(&answer, desired, objects, &uid));
    let from = objects.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or_default();
    converted.map_err(|why| Status::internal(format!("conversion webhook for {from}, Kind={} failed: {why}", resource.kind)))
}
