//! Who may. `system:masters` may do everything, a node what has to do with it, everybody what bindings grant.

pub(crate) mod node;
pub(crate) mod rbac;

use serde_json::Value;
use skein_object::Status;
use skein_object::expression::{Asked, AskedResource, Authorize};

use crate::Context;
use crate::authenticate::User;
use crate::route::Attributes;

/// A node that asks to join shows a token instead of credentials, one whose certificate ends its key.
const FOR_NODES: [&str; 2] = ["/skein/v1/join", "/skein/v1/renew"];

const STATUS: &str = "/skein/v1/status";

/// Kubernetes' own answers to those who may or may not.
pub(crate) fn check(context: &Context, user: &User, attributes: &Attributes<'_>) -> Result<(), Status> {
    if is_allowed(context, user, attributes) { Ok(()) } else { Err(refusal(user, attributes)) }
}

pub(crate) fn is_allowed(context: &Context, user: &User, attributes: &Attributes<'_>) -> bool {
    if user.is_in("system:masters") {
        return true;
    }
    if node::name_of(user).is_some_and(|node| node::allows(&context.store.local().state, node, attributes)) {
        return true;
    }
    match attributes {
        Attributes::Path { path, .. } if FOR_NODES.contains(path) => true,
        // The cluster's own status is for whoever has credentials; what else is there only for administrators.
        Attributes::Path { verb, path } if *path == STATUS && *verb == "get" => user.is_in("system:authenticated"),
        Attributes::Path { path, .. } if path.starts_with("/skein/v1/") => false,
        _ => context.grants.allow(&context.store, user, attributes),
    }
}

/// Answers expressions of admission.
pub(crate) struct AskedByExpressions(pub(crate) Context);

impl Authorize for AskedByExpressions {
    fn allows(&self, user: &Value, asked: &Asked) -> bool {
        let user = User::of_info(user);
        match asked {
            Asked::Path { verb, path } => is_allowed(&self.0, &user, &Attributes::Path { verb, path }),
            Asked::Resource(AskedResource { verb, group, resource, subresource, namespace, name, fields }) => {
                is_allowed(&self.0, &user, &Attributes::Resource { verb, group, resource, namespace, name, subresource, fields })
            }
        }
    }
}

/// Kubernetes' words for a refusal.
fn refusal(user: &User, attributes: &Attributes<'_>) -> Status {
    let message = match attributes {
        Attributes::Path { verb, path } => format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name),
        Attributes::Resource { verb, resource, group, namespace, name, subresource, .. } => {
            let what = if group.is_empty() { (*resource).to_string() } else { format!("{resource}.{group}") };
            let called = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
            let full = if subresource.is_empty() { (*resource).to_string() } else { format!("{resource}/{subresource}") };
            let scope = if namespace.is_empty() { "at the cluster scope".into() } else { format!("in the namespace \"{namespace}\"") };
            format!(
                "{what}{called} is forbidden: User \"{}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}",
                user.name
            )
        }
    };
    let about = match attributes {
        Attributes::Path { .. } => skein_object::status::Details::default(),
        Attributes::Resource { group, resource, name, .. } => {
            skein_object::status::Details { name: (*name).into(), group: (*group).into(), kind: (*resource).into(), ..Default::default() }
        }
    };
    Status::failure(403, "Forbidden", message).about(about)
}
