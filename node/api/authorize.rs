//! Who may. A stage: `system:masters` may do everything, `system:nodes` may read, everybody may ask for health,
//! version and the public endpoints. Role-based access control is to come.

use skein_object::Status;

use crate::authenticate::User;
use crate::route::Attributes;

/// Paths that need no credentials: Kubernetes' `system:public-info-viewer`.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/skein/v1/join"];

pub(crate) fn is_allowed(user: &User, attributes: &Attributes<'_>) -> bool {
    if user.is_in("system:masters") {
        return true;
    }
    match attributes {
        Attributes::Path { path, .. } if PUBLIC.iter().any(|public| path == public || path.starts_with(&format!("{public}/"))) => true,
        Attributes::Path { verb, .. } => user.is_in("system:authenticated") && *verb == "get",
        Attributes::Resource { verb, resource, .. } => {
            user.is_in("system:nodes") && matches!(*verb, "get" | "list" | "watch") && *resource != "secrets"
        }
    }
}

/// Kubernetes' words for a refusal.
pub(crate) fn refusal(user: &User, attributes: &Attributes<'_>) -> Status {
    let message = match attributes {
        Attributes::Path { verb, path } => format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name),
        Attributes::Resource { verb, resource, group, namespace, name, subresource } => {
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
    Status::failure(403, "Forbidden", message)
}
