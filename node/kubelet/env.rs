//! The environment of a container: values, references to ConfigMaps, Secrets, the Pod's fields and resources. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use serde_json::Value;
use skein_object::Key;
use skein_state::State;

use crate::{Error, Tokens};

/// What a container's configuration is made from.
pub(crate) struct Source<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a State,
    pub(crate) node: &'a str,
    pub(crate) host_ip: &'a str,
    pub(crate) pod_ip: &'a str,
    pub(crate) tokens: &'a dyn Tokens,
    /// Where volumes behind claims are on this node.
    pub(crate) volumes: &'a Path,
}

// === impl Source ===

impl Source<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The data of a ConfigMap, as bytes.
    pub(crate) fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let entry = self.state.get(&Key::new("configmaps", self.namespace(), name))?;
        let map = entry.record.typed::<ConfigMap>(entry.revision)?;
        let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
        Some(text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))).collect())
    }

    pub(crate) fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let entry = self.state.get(&Key::new("secrets", self.namespace(), name))?;
        let secret = entry.record.typed::<Secret>(entry.revision)?;
        Some(secret.data.unwrap_or_default().into_iter().map(|(k, ByteString(v))| (k, v)).collect())
    }

    /// A field of the Pod by its path (downward API).
    pub(crate) fn field(&self, path: &str) -> Result<String, Error> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let quoted = |map: Option<&BTreeMap<String, String>>| {
            map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
        };
        let entry = |map: Option<&BTreeMap<String, String>>, prefix: &str| {
            let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
            Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default())
        };
        if let Some(value) =
            entry(metadata.labels.as_ref(), "metadata.labels['").or_else(|| entry(metadata.annotations.as_ref(), "metadata.annotations['"))
        {
            return Ok(value);
        }
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => self.namespace().into(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "metadata.labels" => quoted(metadata.labels.as_ref()),
            "metadata.annotations" => quoted(metadata.annotations.as_ref()),
            "spec.nodeName" => self.node.into(),
            "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
            "status.hostIP" | "status.hostIPs" => self.host_ip.into(),
            "status.podIP" | "status.podIPs" => self.pod_ip.into(),
            other => return Err(Error::Config(format!("unsupported fieldPath: {other}"))),
        })
    }
}

/// Name and value of every variable, in order; a later one sees the earlier ones as `$(NAME)`.
pub(crate) fn resolve(source: &Source<'_>, container: &Container) -> Result<Vec<(String, String)>, Error> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (found, optional, what) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (source.config_map(&reference.name), reference.optional, format!("configmap \"{}\"", reference.name)),
            (_, Some(reference)) => (source.secret(&reference.name), reference.optional, format!("secret \"{}\"", reference.name)),
            (None, None) => continue,
        };
        match found {
            Some(data) => {
                variables.extend(data.into_iter().map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v).into_owned())))
            }
            None if optional == Some(true) => {}
            None => return Err(Error::Config(format!("{what} not found"))),
        }
    }
    for env in container.env.iter().flatten() {
        let value = match &env.value_from {
            Some(from) => match referenced(source, container, from)? {
                Some(value) => value,
                None => continue,
            },
            None => expand(env.value.as_deref().unwrap_or_default(), &variables),
        };
        variables.retain(|(name, _)| *name != env.name);
        variables.push((env.name.clone(), value));
    }
    Ok(variables)
}

/// The value behind a reference; `None` where an optional one is missing.
fn referenced(source: &Source<'_>, container: &Container, from: &EnvVarSource) -> Result<Option<String>, Error> {
    if let Some(field) = &from.field_ref {
        return source.field(&field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return Ok(Some(resource_value(container, &resource.resource)));
    }
    let (data, key, optional, what) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (source.config_map(&r.name), &r.key, r.optional, format!("configmap \"{}\"", r.name)),
        (_, Some(r)) => (source.secret(&r.name), &r.key, r.optional, format!("secret \"{}\"", r.name)),
        (None, None) => return Ok(None),
    };
    let name = what.split('"').nth(1).unwrap_or_default().to_string();
    match data {
        Some(data) => match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional == Some(true) => Ok(None),
            None => Err(Error::Config(format!(
                "couldn't find key {key} in {} {}/{name}",
                if what.starts_with('c') { "ConfigMap" } else { "Secret" },
                source.namespace()
            ))),
        },
        None if optional == Some(true) => Ok(None),
        None => Err(Error::Config(format!("{what} not found"))),
    }
}

/// `limits.cpu` in cores rounded up, memory in bytes.
pub(crate) fn resource_value(container: &Container, resource: &str) -> String {
    let resources = serde_json::to_value(&container.resources).unwrap_or(Value::Null);
    let (kind, name) = resource.split_once('.').unwrap_or(("limits", resource));
    let amount = resources[kind][name].as_str().and_then(|t| t.parse::<skein_object::quantity::Quantity>().ok());
    amount.map_or_else(|| "0".into(), |a| a.units().to_string())
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign, an unknown name stays as it is.
pub(crate) fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_references() {
        let variables = [("A".to_string(), "1".to_string())];
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &variables), expected);
        check("x$(A)y", "x1y");
        check("$$(A)", "$(A)");
        check("$(B)", "$(B)");
        check("cost: 5$", "cost: 5$");
    }
}
