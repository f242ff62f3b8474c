//! Kubernetes' `Status`: what an API answers instead of an object, with its code, reason and message.

use serde::{Deserialize, Serialize};

use crate::field::Errors;
use crate::registry::Resource;

/// An answer that is not an object. `reason` and `message` are Kubernetes' own words (apimachinery, `api/errors`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Status {
    pub kind: String,
    pub api_version: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Status {
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// The answer to a deletion that left nothing to show.
    pub fn success(resource: &Resource, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(200, "", "");
        status.status = "Success".into();
        status.details = Some(Details { uid: uid.into(), ..details(resource, name) });
        status
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified())).about(details(resource, name))
    }

    pub fn page_not_found() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource").about(Details::default())
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified())).about(details(resource, name))
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::failure(409, "Conflict", message).about(details(resource, name))
    }

    /// A write that was based on an older version.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    pub fn invalid(resource: &Resource, name: &str, errors: Errors) -> Self {
        let list = errors.to_string();
        let message = format!("{} \"{name}\" is invalid: {list}", resource.group_kind());
        let about = Details {
            name: name.into(),
            group: resource.home_group().into(),
            kind: resource.kind.into(),
            causes: errors.causes(),
            ..Details::default()
        };
        Self::failure(422, "Invalid", message).about(about)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::failure(403, "Forbidden", message).about(details(resource, name))
    }

    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    pub fn method_not_allowed() -> Self {
        Self::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").about(Details::default())
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(got: &str) -> Self {
        let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        Self::failure(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted} (got {got})"),
        )
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message)
            .about(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() })
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message)
    }

    #[must_use]
    pub fn about(mut self, details: Details) -> Self {
        self.details = Some(details);
        self
    }
}

fn details(resource: &Resource, name: &str) -> Details {
    Details { name: name.into(), group: resource.group.into(), kind: resource.plural.into(), ..Details::default() }
}
