//! StorageVersionMigrations (KEP-4192): every object of a resource is written anew as it would be written today, in the
//! version that is stored now and under the key that seals now. On the leader; of one resource one at a time.
//!
//! Whoever is elected goes on from what the migration's status says; to write an object anew twice changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skein_command::{Cause, Write};
use skein_object::custom::DEFINITIONS;
use skein_object::registry::{self, Subresource};
use skein_object::{Key, Status, meta};
use skein_state::State;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::verbs::Author;
use crate::{Context, convert};

const MIGRATIONS: &str = "storageversionmigrations.storagemigration.k8s.io";

const INTERVAL: Duration = Duration::from_secs(1);

/// A resource that is not there yet may be about to be defined.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// Why a migration does not end well now.
enum Trouble {
    /// It is tried again.
    Passing(Box<Status>),
    Lasting(String),
}

// === impl Trouble ===

impl Trouble {
    fn passing(why: Status) -> Self {
        Self::Passing(Box::new(why))
    }
}

pub(crate) async fn run(context: Context) {
    loop {
        sleep(INTERVAL).await;
        if !context.store.leadership().is_self {
            continue;
        }
        let state = context.store.local().state;
        for migration in next(state.show_all(MIGRATIONS)) {
            if let Err(why) = go_on(&context, &state, &migration).await {
                warn!(migration = meta::name(&migration), why = why.message, "a storage version migration waits");
            }
        }
    }
}

/// Of each resource the migration that runs, or the oldest that has not.
fn next(migrations: Vec<Value>) -> Vec<Value> {
    let mut first = BTreeMap::<String, Value>::new();
    let rank = |migration: &Value| {
        let created = migration["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_string();
        (!holds(migration, "Running"), created, meta::name(migration).to_string())
    };
    for migration in migrations {
        if holds(&migration, "Succeeded") || holds(&migration, "Failed") {
            continue;
        }
        let resource = migration["spec"]["resource"].to_string();
        if first.get(&resource).is_none_or(|known| rank(&migration) < rank(known)) {
            first.insert(resource, migration);
        }
    }
    first.into_values().collect()
}

fn holds(object: &Value, kind: &str) -> bool {
    conditions(object).any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

async fn go_on(context: &Context, state: &State, migration: &Value) -> Result<(), Status> {
    let text = |field: &str| migration["spec"]["resource"][field].as_str().unwrap_or_default();
    let (group, plural) = (text("group"), text("resource"));
    let definition = Key::new(DEFINITIONS, "", &format!("{plural}.{group}"));
    if !holds(migration, "Running") {
        let told = format!("Migration {} is running", meta::name(migration));
        tell_definition(context, state, &definition, ("True", "MigrationRunning", &told)).await?;
        let running = condition("Running", "True", "MigrationRunning", "The migration is running");
        let revision = state.revision().to_string();
        return tell(context, state, migration, &[running], Some(&revision)).await;
    }
    let name = meta::name(migration);
    match migrate(context, state, migration, (group, plural)).await {
        Ok(None) => Ok(()),
        Ok(Some(total)) => {
            info!(migration = name, total, "a storage version migration is done");
            let told = "The migration has succeeded and the stored versions have been updated";
            tell_definition(context, state, &definition, ("False", "MigrationSucceeded", told)).await?;
            let succeeded = condition("Succeeded", "True", "StorageVersionMigrationSucceeded", "Migration completed");
            tell(context, state, migration, &[ended(), succeeded], None).await
        }
        Err(Trouble::Passing(why)) => Err(*why),
        Err(Trouble::Lasting(why)) => {
            tell_definition(context, state, &definition, ("False", "MigrationFailed", "The migration has failed")).await?;
            let failed = condition("Failed", "True", "StorageVersionMigrationFailed", &why);
            tell(context, state, migration, &[ended(), failed], None).await
        }
    }
}

/// Writes anew what is there; how many objects that is, or none if it has to wait for the resource.
async fn migrate(context: &Context, state: &State, migration: &Value, (group, plural): (&str, &str)) -> Result<Option<usize>, Trouble> {
    let stored = if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") };
    let Some(resource) = context.catalog.stored(state, &stored) else {
        let created = migration["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let is_young = created.is_some_and(|created| Timestamp::now().duration_since(created) < PATIENCE);
        return if is_young { Ok(None) } else { Err(Trouble::Lasting("resource does not exist in discovery".into())) };
    };
    let prefix = Key::prefix(resource.stored(), "");
    let until: u64 = migration["status"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let all: Vec<_> = state.range(&prefix, None).collect();
    // What is newer was written as it is written today.
    let old: Vec<_> = all.iter().filter(|(_, entry)| entry.revision <= until).collect();
    for (at, &&(key, entry)) in old.iter().enumerate() {
        let rewritten = async {
            let object = convert::shown_one(context, state, &resource, (key, entry)).await?;
            convert::stored(context, &resource, (key, Some(&entry.record)), &object).await
        };
        let of_object = |why: Status| match why.code {
            400..=499 if why.code != 429 => Trouble::Lasting(format!(
                "{}/{} not yet migrated. migration encountered unhandled error: {}",
                old.len() - at,
                all.len(),
                why.message
            )),
            _ => Trouble::passing(why),
        };
        let record = rewritten.await.map_err(of_object)?;
        if record == *entry.record {
            continue;
        }
        let write = Write::update(key, entry.revision, &entry.record, &record);
        let outcome = context.store.propose(write.into()).await.map_err(|why| Trouble::passing(Status::timeout(why.to_string())))?;
        match outcome.result() {
            Ok(_) => {}
            // Somebody else has written it meanwhile, or it has gone.
            Err(refusal) if matches!(refusal.cause(), Cause::Conflict | Cause::NotFound) => {}
            Err(refusal) => return Err(Trouble::passing(Status::internal(format!("{key}: {:?}", refusal.cause())))),
        }
    }
    Ok(Some(all.len()))
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let now = meta::time(Timestamp::now());
    json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message})
}

fn ended() -> Value {
    condition("Running", "False", "MigrationCompleted", "Migration completed")
}

async fn tell(context: &Context, state: &State, migration: &Value, news: &[Value], revision: Option<&str>) -> Result<(), Status> {
    let mut new = migration.clone();
    news.iter().for_each(|condition| meta::set_condition(&mut new, condition.clone()));
    if let Some(revision) = revision {
        new["status"]["resourceVersion"] = revision.into();
    }
    write(context, state, &Key::new(MIGRATIONS, "", meta::name(migration)), new).await
}

/// What a definition says of its migration; once that is done, no other version is stored.
async fn tell_definition(context: &Context, state: &State, key: &Key, (status, reason, message): (&str, &str, &str)) -> Result<(), Status> {
    let Some(mut definition) = state.show(key) else { return Ok(()) };
    let mut news = condition("StorageMigrating", status, reason, message);
    let generation = definition["metadata"]["generation"].clone();
    let begun = conditions(&definition).find(|known| known["type"] == "StorageMigrating").cloned();
    if reason == "MigrationSucceeded" {
        let stored = definition["spec"]["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
        let stored = stored.map(|version| version["name"].clone());
        match stored.filter(|_| begun.is_some_and(|begun| begun["observedGeneration"] == generation)) {
            Some(stored) => definition["status"]["storedVersions"] = json!([stored]),
            None => {
                news["message"] =
                    "The migration has succeeded but the stored versions have not been updated due to a generation mismatch".into();
            }
        }
    }
    news["observedGeneration"] = generation;
    meta::set_condition(&mut definition, news);
    write(context, state, key, definition).await
}

/// Writes what is said of an object in its status.
async fn write(context: &Context, state: &State, key: &Key, mut object: Value) -> Result<(), Status> {
    let (Some(resource), Some(entry)) = (registry::by_key(key.resource()), state.get(key)) else { return Ok(()) };
    Author::of_controllers(Some(Subresource::Status)).record(resource, state.show(key).as_ref(), &mut object);
    let write = Write::update(key, entry.revision, &entry.record, &resource.record(&object));
    // Whoever changed it meanwhile is seen in the next round.
    context.store.propose(write.into()).await.map(drop).map_err(|why| Status::timeout(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, resource: &str, created: u8, holds: &[&str]) -> Value {
        let conditions: Vec<Value> = holds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"resource": {"group": "", "resource": resource}}, "status": {"conditions": conditions}})
    }

    #[test]
    fn of_one_resource_one_runs_at_a_time() {
        let check = |migrations: Vec<Value>, expected: &[&str]| {
            let names: Vec<String> = next(migrations).iter().map(|migration| meta::name(migration).to_string()).collect();
            assert_eq!(names, expected);
        };
        check(vec![], &[]);
        check(vec![migration("b", "secrets", 2, &[]), migration("a", "secrets", 3, &[])], &["b"]);
        check(vec![migration("b", "secrets", 2, &[]), migration("a", "secrets", 2, &[])], &["a"]);
        check(vec![migration("b", "secrets", 2, &[]), migration("a", "secrets", 3, &["Running"])], &["a"]);
        check(vec![migration("b", "secrets", 2, &["Succeeded"]), migration("a", "secrets", 3, &["Failed"])], &[]);
        check(vec![migration("b", "secrets", 2, &[]), migration("a", "pods", 3, &[])], &["a", "b"]);
    }
}
