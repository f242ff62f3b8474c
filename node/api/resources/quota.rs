//! ResourceQuotas at admission: what a write takes of them goes into its transaction, and `apply` has the last word.

use serde_json::Value;
use skein_command::{Action, Write};
use skein_object::{Key, Resource, Status, meta, quota};
use skein_state::State;

/// What a new or changed object takes of its namespace's quotas.
pub(crate) fn charges(state: &State, resource: &Resource, key: &Key, object: &Value, old: Option<&Value>) -> Result<Vec<Write>, Status> {
    if key.namespace().is_empty() {
        return Ok(Vec::new());
    }
    let prefix = Key::prefix(quota::QUOTAS, key.namespace());
    let quotas: Vec<Value> = state.range(&prefix, None).filter_map(|(key, _)| state.show(key)).collect();
    let charges = quota::charges(&quotas, resource, object, old).map_err(|why| Status::forbidden(resource, meta::name(object), &why))?;
    Ok(charges.iter().map(|charge| Write::charge(key.namespace(), charge)).collect())
}

/// Why a charge does not fit; `None` where it would fit by now, or the quota is gone.
pub(crate) fn refused(state: &State, resource: &Resource, object: &Value, charge: &Write) -> Option<Status> {
    let Some(Action::Charge(amounts)) = &charge.action else { return None };
    let quota = state.show(&Key::parse(&charge.key)?)?;
    let why = quota::exceeded(&quota, &amounts.amounts())?;
    Some(Status::forbidden(resource, meta::name(object), &why))
}
