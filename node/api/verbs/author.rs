//! Who a write is recorded for in `metadata.managedFields`.

use http::HeaderMap;
use http::header::USER_AGENT;
use jiff::Timestamp;
use serde_json::Value;
use skein_object::field::{Errors, Path, Problem};
use skein_object::managed::{self, Writer};
use skein_object::registry::Subresource;
use skein_object::{Resource, Status, meta};

use super::options;
use crate::route::Target;

/// `FieldManagerMaxLength`.
const MANAGER_CHARS_MAX: usize = 128;

/// The manager that a request names, or its client's name.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    manager: String,
    subresource: Option<Subresource>,
    now: String,
}

impl Author {
    pub(crate) fn of(target: &Target, headers: &HeaderMap) -> Result<Self, Status> {
        let named = target.query.get("fieldManager");
        if let Some(name) = named
            && (name.chars().count() > MANAGER_CHARS_MAX || name.chars().any(char::is_control))
        {
            let why = format!("may not be more than {MANAGER_CHARS_MAX} printable characters");
            return Err(refused(Problem::Invalid(name.into(), why)));
        }
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let client: String = agent.split('/').next().unwrap_or_default().chars().take(MANAGER_CHARS_MAX).collect();
        let manager = named.map_or(client, String::from);
        Ok(Self { manager, subresource: target.subresource, now: meta::time(Timestamp::now()) })
    }

    /// The author of what controllers make, or of what they write to this part of it.
    pub(crate) fn of_controllers(subresource: Option<Subresource>) -> Self {
        Self { manager: "kube-controller-manager".into(), subresource, now: meta::time(Timestamp::now()) }
    }

    /// The author of an apply, who must say his name.
    pub(super) fn of_apply(target: &Target, headers: &HeaderMap) -> Result<Self, Status> {
        if target.query.get("fieldManager").is_none() {
            return Err(refused(Problem::Required("is required for apply patch".into())));
        }
        Self::of(target, headers)
    }

    /// Records an update; `old` is `None` for a creation.
    pub(crate) fn record(&self, resource: &Resource, old: Option<&Value>, new: &mut Value) {
        let api_version = resource.api_version();
        managed::update(old, new, resource.shape(), &self.writer(resource, &api_version));
    }

    /// The object after `config` is applied to it.
    pub(super) fn apply(&self, resource: &Resource, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, Status> {
        let api_version = resource.api_version();
        managed::apply(live, config, resource.shape(), &self.writer(resource, &api_version), force)
            .map_err(|conflicts| crate::status::of_conflicts(&conflicts))
    }

    fn writer<'a>(&'a self, resource: &Resource, api_version: &'a str) -> Writer<'a> {
        Writer {
            manager: &self.manager,
            api_version,
            subresource: self.subresource.map(Subresource::name).unwrap_or_default(),
            now: &self.now,
            status_apart: resource.has(Subresource::Status),
        }
    }
}

fn refused(problem: Problem) -> Status {
    let mut errors = Errors::default();
    errors.add(&Path::new("fieldManager"), problem);
    options::invalid("PatchOptions", &errors)
}
