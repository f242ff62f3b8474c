//! The one table of built-in resources. Routing, discovery, OpenAPI, Table output, defaulting, validation and storage
//! are derived from it; adding a resource is adding an entry.

mod access;
mod apps;
mod batch;
mod core;
mod extension;
mod metrics;
mod network;
mod policy;
mod storage;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

use crate::custom::Custom;
use crate::custom::conversion::Conversion;
use crate::field::Errors;
use crate::names::NameRule;
use crate::record::Record;
use crate::schema::{self, Shape};
use crate::table::Column;

/// A validation rule: the object, its predecessor on update, and where to report.
pub(crate) type Validate = fn(&Value, Option<&Value>, &mut Errors);

/// One built-in resource in the version that it is stored and served in.
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub(crate) stored: &'static str,
    pub short_names: Cow<'static, [&'static str]>,
    pub categories: Cow<'static, [&'static str]>,
    pub namespaced: bool,
    pub subresources: Cow<'static, [Subresource]>,
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes of the specification.
    pub has_generation: bool,
    /// Whether a PUT makes an object that is not there.
    pub made_by_update: bool,
    /// Whether a DELETE that is done at once answers with the object, not with a Status (`ReturnDeletedObject`).
    pub deleted_is_shown: bool,
    pub serving: Serving,
    /// Where another resource holds the objects that this one shows.
    pub view: Option<View>,
    pub(crate) default: fn(&mut Value),
    /// What is written into a new object only after its managers are recorded (a strategy's PrepareForCreate).
    pub(crate) prepare: fn(&mut Value),
    /// What an update carries over from the object as it was, whatever the client says (PrepareForUpdate).
    pub(crate) carry_over: fn(&mut Value, &Value),
    pub(crate) validate: Validate,
    /// The rules of what somebody writes to the status: the object as it becomes, and as it was.
    pub(crate) validate_status: fn(&Value, &Value, &mut Errors),
    /// Fields that a `fieldSelector` may name, besides metadata.name and metadata.namespace.
    pub selectable: Cow<'static, [&'static str]>,
    pub(crate) columns: fn() -> Vec<Column>,
    /// The field that rests and travels sealed.
    pub sealed: Option<&'static str>,
    /// What a custom resource has beyond this.
    pub custom: Option<Custom>,
}

/// Where a resource's objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// They are stored.
    Stored,
    /// One is made to ask something and holds the answer; nothing is stored (SelfSubjectAccessReview).
    Asked,
    /// They are measured when they are read (PodMetrics).
    Measured,
}

/// A second face of stored objects: an older version, or Events in their new group.
#[derive(Clone, Copy)]
pub struct View {
    /// The resource that holds them, as keys name it.
    pub of: &'static str,
    /// From the stored form to this one.
    pub show: fn(&mut Value),
    /// From this form to the stored one.
    pub store: fn(&mut Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Log,
    Exec,
    Attach,
    PortForward,
    Binding,
    Eviction,
    Finalize,
    Token,
    Approval,
    Proxy,
    EphemeralContainers,
    Resize,
}

impl Subresource {
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Proxy => "proxy",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

// === impl Resource ===

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `PodList`, or what a definition says.
    pub fn list_kind(&self) -> String {
        let stated = self.custom.as_ref().map(|custom| custom.list_kind.clone()).filter(|kind| !kind.is_empty());
        stated.unwrap_or_else(|| format!("{}List", self.kind))
    }

    /// `pods`, `deployments.apps`: the name in messages.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The name in keys: that of the resource which holds the objects.
    pub fn stored(&self) -> &'static str {
        self.view.map_or(self.stored, |view| view.of)
    }

    pub fn singular(&self) -> String {
        self.kind.to_lowercase()
    }

    /// The name of the schema's definition, as in `io.k8s.api.core.v1.Pod`.
    pub fn definition(&self) -> Option<&'static str> {
        schema::definition_of(self.group, self.version, self.kind)
    }

    pub fn shape(&self) -> Option<Shape<'_>> {
        match &self.custom {
            Some(custom) => Some(custom.shape()),
            None => Shape::named(self.definition()?),
        }
    }

    /// Removes what the schema does not know from a new value and says what was wrong.
    pub fn conform(&self, object: &mut Value) -> schema::Findings {
        match (&self.custom, self.shape()) {
            (Some(custom), _) => schema::prune(custom.shape(), object),
            (None, Some(shape)) => schema::check(shape, object),
            (None, None) => schema::Findings::default(),
        }
    }

    /// Writes into an object what Kubernetes writes where the client said nothing.
    pub fn fill_defaults(&self, object: &mut Value) {
        self.fill_managed(object);
        (self.prepare)(object);
        self.settle(object);
    }

    /// Leaves out of an object what Kubernetes forgets of it when it is stored, so that it can be compared with one that
    /// was.
    pub fn settle(&self, object: &mut Value) {
        if let (None, Some(shape)) = (&self.custom, self.shape()) {
            schema::settle(shape, object);
        }
    }

    /// Those defaults that belong to whoever makes the object.
    pub fn fill_managed(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            return custom.default(object);
        }
        (self.default)(object);
        if let Some(shape) = self.shape() {
            schema::fill(shape, object);
        }
    }

    /// The rules of the kind; `old` is what an update starts from.
    pub fn check(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        match &self.custom {
            Some(custom) => custom.validate(object, old, errors),
            None => (self.validate)(object, old, errors),
        }
    }

    /// The rules of a write to the status alone.
    pub fn check_status(&self, object: &Value, old: &Value, errors: &mut Errors) {
        match &self.custom {
            Some(custom) => custom.validate(object, Some(old), errors),
            None => (self.validate_status)(object, old, errors),
        }
    }

    /// How a list is printed.
    pub fn columns(&self) -> Vec<Column> {
        match &self.custom {
            Some(custom) => custom.columns(),
            None => (self.columns)(),
        }
    }

    /// A stored object as this resource shows it.
    pub fn show(&self, record: &Record, revision: u64) -> Value {
        let mut object = record.to_value(&self.api_version(), self.kind, revision);
        if let Some(view) = self.view {
            (view.show)(&mut object);
        }
        if let Some(custom) = self.custom.as_ref().filter(|custom| custom.has_defaults) {
            // What was stored before the schema had a default gets it when it is read.
            custom.default(&mut object);
        }
        object
    }

    /// A stored custom object as it rests, in the version that it rests in.
    pub fn at_rest(&self, record: &Record, revision: u64) -> Value {
        record.to_value(&record.version().unwrap_or_else(|| self.storage_version()), self.kind, revision)
    }

    /// The version that objects are stored in.
    pub fn storage_version(&self) -> String {
        self.custom.as_ref().map_or_else(|| self.api_version(), |custom| custom.storage_version.clone())
    }

    /// Who converts objects between versions, where that is more than a name.
    pub fn conversion(&self) -> Option<&Conversion> {
        self.custom.as_ref()?.conversion.as_ref()
    }

    /// Whether its metadata follows the rules of every kind alone, and not also those of Kubernetes' core.
    pub fn has_generic_metadata(&self) -> bool {
        self.custom.is_some() || matches!(self.group, "apiextensions.k8s.io" | "apiregistration.k8s.io" | "admissionregistration.k8s.io")
    }

    /// Whether a stored object can be shown as it is, byte by byte.
    pub fn is_shown_as_stored(&self) -> bool {
        self.view.is_none()
            && self.sealed.is_none()
            && self.custom.as_ref().is_none_or(|custom| !custom.has_defaults && custom.conversion.is_none())
    }

    /// An object of this resource as it is stored.
    pub fn record(&self, object: &Value) -> Record {
        if self.custom.is_some() {
            return Record::from_value(object).in_version(&self.storage_version());
        }
        let Some(view) = self.view else { return Record::from_value(object) };
        let mut stored = object.clone();
        (view.store)(&mut stored);
        Record::from_value(&stored)
    }

    /// The group of whoever validates: of the resource that holds the objects.
    pub(crate) fn home_group(&self) -> &'static str {
        self.view.and_then(|view| by_key(view.of)).map_or(self.group, |home| home.group)
    }

    /// `Pod`, `Deployment.apps`.
    pub fn group_kind(&self) -> String {
        let group = self.home_group();
        if group.is_empty() { self.kind.into() } else { format!("{}.{group}", self.kind) }
    }

    /// Carries over what an update of this kind may not touch.
    pub fn carry_over(&self, object: &mut Value, old: &Value) {
        (self.carry_over)(object, old);
    }

    pub fn verbs(&self) -> &'static [&'static str] {
        match self.serving {
            Serving::Asked => return &["create"],
            Serving::Measured => return &["get", "list"],
            Serving::Stored => {}
        }
        if self.stored == "namespaces" {
            return &["create", "delete", "get", "list", "patch", "update", "watch"];
        }
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }

    /// What whoever makes an object of this kind must know: that nothing acts on it yet.
    pub fn warning(&self) -> Option<String> {
        IDLE.contains(&self.stored()).then(|| format!("this version of Skein stores {} but does not act on them", self.plural))
    }

    /// Whether objects rest under this resource's own keys.
    pub fn is_stored(&self) -> bool {
        self.serving == Serving::Stored && self.view.is_none()
    }

    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|s| s.name() == name)
    }

    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

/// Resources that are served and stored, and on which nothing acts yet. Whoever makes one is warned.
const IDLE: &[&str] = &["resourceclaims.resource.k8s.io"];

/// Every built-in resource, in the order of discovery. Of several versions the preferred one comes first.
pub fn all() -> &'static [Arc<Resource>] {
    static ALL: OnceLock<Vec<Arc<Resource>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let groups = [core::resources(), apps::resources(), batch::resources(), access::resources(), network::resources()];
        let more = [storage::resources(), policy::resources(), extension::resources(), metrics::resources()];
        groups.into_iter().chain(more).flatten().map(Arc::new).collect()
    })
}

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Resource>> {
    all().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource whose keys start with this name: `deployments.apps`.
pub fn by_key(stored: &str) -> Option<&'static Arc<Resource>> {
    static BY_KEY: OnceLock<BTreeMap<&str, &Arc<Resource>>> = OnceLock::new();
    BY_KEY.get_or_init(|| all().iter().filter(|r| r.is_stored()).map(|r| (r.stored(), r)).collect()).get(stored).copied()
}

pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Arc<Resource>> {
    all().iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// An entry with the usual values; what is special is stated where the entry stands.
pub(crate) fn entry(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        stored: intern(&if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") }),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        namespaced: true,
        subresources: Cow::Borrowed(&[]),
        name_rule: NameRule::Subdomain,
        has_generation: false,
        made_by_update: false,
        deleted_is_shown: false,
        serving: Serving::Stored,
        view: None,
        default: |_| {},
        prepare: |_| {},
        carry_over: |_, _| {},
        validate: |_, _, _| {},
        validate_status: |_, _, _| {},
        selectable: Cow::Borrowed(&[]),
        columns: crate::table::name_and_age,
        sealed: None,
        custom: None,
    }
}

/// A name that lives as long as the process. Each distinct text is kept once.
pub(crate) fn intern(text: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(text) {
        return known;
    }
    let kept: &'static str = Box::leak(text.to_string().into_boxed_str());
    names.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_its_schema_and_a_unique_name() {
        let mut names: Vec<_> = all().iter().map(|r| (r.api_version(), r.qualified())).collect();
        for resource in all() {
            assert!(resource.shape().is_some(), "{} {}", resource.api_version(), resource.kind);
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
