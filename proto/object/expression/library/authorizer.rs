//! `authorizer`: who may what, asked from within an expression (KEP-3488).
//!
//! ```text
//!   authorizer [.serviceAccount(NAMESPACE, NAME)] ─┬─ .path(PATH) ────────────────────────────────────┬─ .check(VERB) ─▶ decision
//!                                                  ├─ .group(GROUP).resource(RESOURCE)[.subresource…] ─┤
//!                                                  └─ .requestResource ────────────────────────────────┘
//! ```

use std::fmt;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Opaque;
use cel::{Context, ExecutionError, Value};
use serde_json::json;

use super::{Declared, of, opaque};
use crate::expression::charge;

/// What a question costs of an evaluation: about twelve may be asked.
const CHECK_VISITS: usize = 350_000;

/// Knows who may what.
pub trait Authorize: Send + Sync + 'static {
    /// Whether the user (`authentication/v1` UserInfo) may.
    fn allows(&self, user: &serde_json::Value, asked: &Asked) -> bool;
}

/// What somebody asks whether he may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Path { verb: String, path: String },
    Resource(AskedResource),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedResource {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// A field selector, as a query has it.
    pub fields: String,
}

/// Somebody, and who knows what he may.
#[derive(Clone)]
pub struct Authorizer {
    by: Arc<dyn Authorize>,
    user: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathCheck(Authorizer, String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupCheck(Authorizer, String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct ResourceCheck(Authorizer, AskedResource);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision(bool);

// === impl Authorizer ===

impl Authorizer {
    pub fn new(by: Arc<dyn Authorize>, user: &serde_json::Value) -> Self {
        Self { by, user: user.clone() }
    }

    /// The variables by which expressions know it; the second is about the request itself.
    pub(crate) fn variables(self, request: AskedResource) -> [(&'static str, Value); 2] {
        let about = ResourceCheck(self.clone(), request);
        [("authorizer", opaque(self)), ("authorizer.requestResource", opaque(about))]
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorizer").field(&self.user).finish()
    }
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.by, &other.by) && self.user == other.user
    }
}

impl Eq for Authorizer {}

named!(
    Authorizer = "kubernetes.authorization.Authorizer",
    PathCheck = "kubernetes.authorization.PathCheck",
    GroupCheck = "kubernetes.authorization.GroupCheck",
    ResourceCheck = "kubernetes.authorization.ResourceCheck",
    Decision = "kubernetes.authorization.Decision"
);

pub(super) fn add(context: &mut Context<'_, '_>) -> Declared {
    type Part = (&'static str, fn(&mut AskedResource) -> &mut String);
    context.add_function("serviceAccount", |This(this): This<Value>, namespace: Arc<String>, name: Arc<String>| {
        let authorizer: Authorizer = of("serviceAccount", &this)?;
        let groups = ["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), "system:authenticated".into()];
        let user = json!({"username": format!("system:serviceaccount:{namespace}:{name}"), "groups": groups});
        Ok::<_, ExecutionError>(opaque(Authorizer { user, ..authorizer }))
    })?;
    context.add_function("path", |This(this): This<Value>, path: Arc<String>| {
        let authorizer = of("path", &this)?;
        if path.is_empty() {
            return Err(ExecutionError::function_error("path", "path must not be empty"));
        }
        Ok::<_, ExecutionError>(opaque(PathCheck(authorizer, path.to_string())))
    })?;
    context.add_function("group", |This(this): This<Value>, group: Arc<String>| {
        Ok::<_, ExecutionError>(opaque(GroupCheck(of("group", &this)?, group.to_string())))
    })?;
    context.add_function("resource", |This(this): This<Value>, resource: Arc<String>| {
        let GroupCheck(authorizer, group) = of("resource", &this)?;
        if resource.is_empty() {
            return Err(ExecutionError::function_error("resource", "resource must not be empty"));
        }
        let asked = AskedResource { group, resource: resource.to_string(), ..AskedResource::default() };
        Ok::<_, ExecutionError>(opaque(ResourceCheck(authorizer, asked)))
    })?;
    let parts: [Part; 4] = [
        ("subresource", |asked| &mut asked.subresource),
        ("namespace", |asked| &mut asked.namespace),
        ("name", |asked| &mut asked.name),
        ("fieldSelector", |asked| &mut asked.fields),
    ];
    for (name, part) in parts {
        context.add_function(name, move |This(this): This<Value>, value: Arc<String>| {
            let mut check: ResourceCheck = of(name, &this)?;
            *part(&mut check.1) = value.to_string();
            Ok::<_, ExecutionError>(opaque(check))
        })?;
    }
    // Nobody's answer depends on labels.
    context
        .add_function("labelSelector", |This(this): This<Value>, _: Arc<String>| of::<ResourceCheck>("labelSelector", &this).map(opaque))?;
    context.add_function("check", |This(this): This<Value>, verb: Arc<String>| {
        charge("check", CHECK_VISITS)?;
        check(&this, &verb).map(|allowed| opaque(Decision(allowed)))
    })?;
    context.add_function("allowed", |This(this): This<Value>| of::<Decision>("allowed", &this).map(|decision| decision.0))?;
    // What is asked is always answered.
    context.add_function("errored", |This(this): This<Value>| of::<Decision>("errored", &this).map(|_| false))?;
    for name in ["reason", "error"] {
        context.add_function(name, move |This(this): This<Value>| of::<Decision>(name, &this).map(|_| Value::String(Arc::default())))?;
    }
    Ok(())
}

fn check(this: &Value, verb: &str) -> Result<bool, ExecutionError> {
    if let Ok(PathCheck(authorizer, path)) = of("check", this) {
        return Ok(authorizer.by.allows(&authorizer.user, &Asked::Path { verb: verb.into(), path }));
    }
    let ResourceCheck(authorizer, asked) = of("check", this)?;
    Ok(authorizer.by.allows(&authorizer.user, &Asked::Resource(AskedResource { verb: verb.into(), ..asked })))
}
