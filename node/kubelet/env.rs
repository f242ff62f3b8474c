//! The environment of a container: values, references to ConfigMaps, Secrets, the Pod's fields and resources. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector};
use skein_object::Key;
use skein_object::cipher::Keyring;
use skein_object::quantity::Quantity;
use skein_state::State;

use crate::pod_certificate::Credentials;
use crate::volumes::Volumes;
use crate::{Error, Tokens, env_file, pod, secrets, service_env};

/// What a container's configuration is made from.
pub(crate) struct Source<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a State,
    pub(crate) node: &'a str,
    pub(crate) host_ip: &'a str,
    pub(crate) pod_ip: &'a str,
    pub(crate) tokens: &'a dyn Tokens,
    pub(crate) keyring: &'a Keyring,
    /// The Pod's own certificates.
    pub(crate) credentials: &'a Credentials,
    /// Where volumes behind claims are on this node.
    pub(crate) volumes: &'a Path,
}

// === impl Source ===

impl Source<'_> {
    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The data of a ConfigMap, as bytes.
    pub(crate) fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let entry = self.state.get(&Key::new("configmaps", self.namespace(), name))?;
        let map = entry.record.typed::<ConfigMap>(entry.revision)?;
        let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
        Some(text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))).collect())
    }

    pub(crate) fn secret(&self, name: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, Error> {
        let found = secrets::secret(self.state, self.keyring, self.namespace(), name)?;
        Ok(found.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(k, ByteString(v))| (k, v)).collect()))
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

/// Name and value of every variable, in order; a later one sees the earlier ones as `$(NAME)`, and those of Services
/// come first.
pub(crate) fn resolve(source: &Source<'_>, container: &Container, volumes: &Volumes) -> Result<Vec<(String, String)>, Error> {
    let mut variables = service_env::variables(source.pod, source.state);
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (found, optional, what) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (source.config_map(&reference.name), reference.optional, format!("configmap \"{}\"", reference.name)),
            (_, Some(reference)) => (source.secret(&reference.name)?, reference.optional, format!("secret \"{}\"", reference.name)),
            (None, None) => continue,
        };
        match found {
            Some(data) => {
                let found = data.into_iter().map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v).into_owned()));
                let found: Vec<_> = found.collect();
                variables.retain(|(name, _)| !found.iter().any(|(new, _)| new == name));
                variables.extend(found);
            }
            None if optional == Some(true) => {}
            None => return Err(Error::Config(format!("{what} not found"))),
        }
    }
    for env in container.env.iter().flatten() {
        let value = match &env.value_from {
            Some(from) => match referenced(source, container, volumes, from)? {
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
fn referenced(source: &Source<'_>, container: &Container, volumes: &Volumes, from: &EnvVarSource) -> Result<Option<String>, Error> {
    if let Some(field) = &from.field_ref {
        return source.field(&field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(source, Some(container), resource).map(Some);
    }
    if let Some(reference) = &from.file_key_ref {
        let found = env_file::value(&volumes.read(&reference.volume_name, &reference.path)?, &reference.key);
        return match found.map_err(|_| Error::Config("couldn't parse env file".into()))? {
            None if reference.optional != Some(true) => {
                Err(Error::Config(format!("environment variable key {:?} not found in file {:?}", reference.key, reference.path)))
            }
            found => Ok(found),
        };
    }
    let (data, key, optional, what) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (source.config_map(&r.name), &r.key, r.optional, format!("configmap \"{}\"", r.name)),
        (_, Some(r)) => (source.secret(&r.name)?, &r.key, r.optional, format!("secret \"{}\"", r.name)),
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

/// A container's request or limit, counted in its divisor and rounded up; without a limit, what the node can give.
/// `container` is the one that asks, unless another is named.
pub(crate) fn resource_value(
    source: &Source<'_>,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, Error> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match name {
        Some(name) => {
            pod::containers(source.pod).find(|c| c.name == name).ok_or_else(|| Error::Config(format!("container {name} not found")))?
        }
        None => container.ok_or_else(|| Error::Config("a container must be named".into()))?,
    };
    let unknown = || Error::Config(format!("unsupported container resource : {}", selector.resource));
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.clone().unwrap_or_default();
    let stated = match kind {
        "limits" => resources.limits,
        "requests" => resources.requests,
        _ => return Err(unknown()),
    };
    let amount = |text: &str| text.parse::<Quantity>().ok();
    let found = stated.and_then(|map| amount(&map.get(name)?.0)).filter(|amount| *amount != Quantity::ZERO);
    let of_node = || {
        let status = source.state.get(&Key::new("nodes", "", source.node))?.record.field("status")?;
        amount(status["allocatable"][name].as_str()?)
    };
    let found = found.or_else(|| of_node().filter(|_| kind == "limits")).unwrap_or(Quantity::ZERO);
    let divisor = selector.divisor.as_ref().and_then(|divisor| amount(&divisor.0)).filter(|divisor| *divisor != Quantity::ZERO);
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    // Memory is counted in whole bytes, CPU in thousandths.
    let (found, divisor) = if name == "cpu" { (found.milli(), divisor.milli()) } else { (found.units(), divisor.units()) };
    Ok((found.div_euclid(divisor) + i128::from(found.rem_euclid(divisor) != 0)).to_string())
}

/// As [`expand`], but a name that stands for nothing is an error.
pub(crate) fn expand_strictly(text: &str, variables: &[(String, String)]) -> Result<String, Error> {
    let missing = std::cell::Cell::new(None);
    let expanded = replace(text, |name| {
        let found = variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        found.unwrap_or_else(|| {
            missing.set(Some(name.to_string()));
            String::new()
        })
    });
    missing.take().map_or(Ok(expanded), |name| Err(Error::Config(format!("missing value for {name:?}"))))
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign, an unknown name stays as it is.
pub(crate) fn expand(text: &str, variables: &[(String, String)]) -> String {
    replace(text, |name| match variables.iter().rev().find(|(known, _)| known == name) {
        Some((_, value)) => value.clone(),
        None => format!("$({name})"),
    })
}

fn replace(text: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            out.push_str(&value(name));
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
