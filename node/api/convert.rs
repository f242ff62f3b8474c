//! Between how objects rest and how they are shown: Secrets are opened and sealed, custom resources converted between
//! their versions, as they are or by the webhook of their definition.

use std::borrow::Cow;
use std::time::Instant;

use serde_json::Value;
use skein_object::custom::conversion::{Conversion, TIMEOUT_SECONDS};
use skein_object::{Key, Record, Resource, Status, cipher};
use skein_state::{Entry, State};

use crate::body::OBJECT_BYTES_MAX;
use crate::negotiate::Media;
use crate::{Context, call, status};

/// Objects as a resource shows them.
pub(crate) async fn shown(context: &Context, state: &State, resource: &Resource, objects: &[(&Key, &Entry)]) -> Result<Vec<Value>, Status> {
    let Some(conversion) = resource.conversion() else {
        return objects.iter().map(|(key, entry)| opened(context, resource, key, entry)).collect();
    };
    let desired = resource.api_version();
    let mut objects: Vec<Value> = objects.iter().map(|(_, entry)| resource.at_rest(&entry.record, entry.revision)).collect();
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
        let converted = ask(state, conversion, (resource.kind, &desired), &asked).await?;
        places.into_iter().zip(converted).for_each(|(at, object)| objects[at] = object);
    }
    objects.iter_mut().for_each(|object| resource.fill_managed(object));
    Ok(objects)
}

/// One object as a resource shows it.
pub(crate) async fn shown_one(context: &Context, state: &State, resource: &Resource, object: (&Key, &Entry)) -> Result<Value, Status> {
    let mut objects = shown(context, state, resource, &[object]).await?;
    objects.pop().ok_or_else(|| Status::internal("a conversion left nothing"))
}

/// An object that nobody converts.
pub(crate) fn opened(context: &Context, resource: &Resource, key: &Key, entry: &Entry) -> Result<Value, Status> {
    match resource.sealed {
        Some(field) if cipher::is_sealed(&entry.record) => {
            let cipher = context.keyring.get().ok_or_else(status::no_key)?;
            let record = cipher.open(key, field, &entry.record).map_err(Status::internal)?;
            Ok(resource.show(&record, entry.revision))
        }
        _ => Ok(resource.show(&entry.record, entry.revision)),
    }
}

/// An object as it rests, or rests instead of an old one.
pub(crate) async fn stored(
    context: &Context,
    resource: &Resource,
    (key, old): (&Key, Option<&Record>),
    object: &Value,
) -> Result<Record, Status> {
    let begin = Instant::now();
    let record = match resource.conversion() {
        Some(conversion) if resource.storage_version() != resource.api_version() => {
            let desired = resource.storage_version();
            let state = context.store.local().state;
            let mut converted = ask(&state, conversion, (resource.kind, &desired), std::slice::from_ref(object)).await?;
            resource.record(&converted.pop().unwrap_or_default())
        }
        _ => resource.record(object),
    };
    context.metrics.encoded(Media::Json, 1, begin);
    let size = record.size();
    if size > OBJECT_BYTES_MAX {
        return Err(Status::too_large(format!("Request is too large: the object has {size} bytes, the limit is {OBJECT_BYTES_MAX}")));
    }
    let Some(field) = resource.sealed else { return Ok(record) };
    let cipher = context.keyring.get().ok_or_else(status::no_key)?;
    Ok(cipher.seal(key, field, record, old, rand::random()))
}

/// An object that is not stored yet, or was, from one version of its resource to another.
pub(crate) async fn between<'a>(state: &State, from: &Resource, to: &Resource, object: &'a Value) -> Result<Cow<'a, Value>, Status> {
    if object.is_null() || from.api_version() == to.api_version() {
        return Ok(Cow::Borrowed(object));
    }
    if let Some(conversion) = from.conversion() {
        let mut converted = ask(state, conversion, (to.kind, &to.api_version()), std::slice::from_ref(object)).await?;
        return converted.pop().map(Cow::Owned).ok_or_else(|| Status::internal("a conversion left nothing"));
    }
    let revision = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Cow::Owned(to.show(&from.record(object), revision)))
}

async fn ask(state: &State, conversion: &Conversion, (kind, desired): (&str, &str), objects: &[Value]) -> Result<Vec<Value>, Status> {
    let uid = uuid::Uuid::new_v4().to_string();
    let review = conversion.review(desired, objects, &uid);
    let answer = call::post(state, &conversion.client, TIMEOUT_SECONDS, &review).await;
    let converted = answer.and_then(|answer| conversion.verdict(&answer, desired, objects, &uid));
    let from = objects.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or_default();
    converted.map_err(|why| Status::internal(format!("conversion webhook for {from}, Kind={kind} failed: {why}")))
}
