//! The files that the API has for a volume: of ConfigMaps, Secrets, the Pod's own fields, tokens.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume};

use super::owner::Owner;
use super::writer::{File, Files};
use crate::env::{Source, resource_value};
use crate::trust_bundle;
use crate::{Error, service_account};

/// What a token's file has where somebody is known to read it.
const TOKEN_MODE: u32 = 0o600;

/// The files of a volume; `current` is where those that it has now are.
pub(super) fn files(source: &Source<'_>, volume: &Volume, current: &Path) -> Result<Files, Error> {
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let found = needed(source.config_map(&map.name), map.optional, || format!("configmap \"{}\" not found", map.name))?;
        project(&mut files, (found, map.optional), map.items.as_deref(), map.default_mode)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let found = needed(source.secret(name)?, secret.optional, || format!("secret \"{name}\" not found"))?;
        project(&mut files, (found, secret.optional), secret.items.as_deref(), secret.default_mode)?;
    } else if let Some(downward) = &volume.downward_api {
        for item in downward.items.iter().flatten() {
            downward_file(source, &mut files, item, downward.default_mode)?;
        }
    } else if let Some(projected) = &volume.projected {
        for (index, part) in projected.sources.iter().flatten().enumerate() {
            if let Some(map) = &part.config_map {
                let found = needed(source.config_map(&map.name), map.optional, || format!("configmap \"{}\" not found", map.name))?;
                project(&mut files, (found, map.optional), map.items.as_deref(), projected.default_mode)?;
            } else if let Some(secret) = &part.secret {
                let found = needed(source.secret(&secret.name)?, secret.optional, || format!("secret \"{}\" not found", secret.name))?;
                project(&mut files, (found, secret.optional), secret.items.as_deref(), projected.default_mode)?;
            } else if let Some(downward) = &part.downward_api {
                for item in downward.items.iter().flatten() {
                    downward_file(source, &mut files, item, projected.default_mode)?;
                }
            } else if let Some(token) = &part.service_account_token {
                let content = service_account::token(source, token, &current.join(&token.path))?;
                files.insert(token.path.clone(), own_file(source, content, projected.default_mode));
            } else if let Some(certificate) = &part.pod_certificate {
                let (key, chain) = source.credentials.get(&volume.name, index)?;
                let parts = [
                    (&certificate.credential_bundle_path, format!("{key}{chain}")),
                    (&certificate.key_path, key.to_string()),
                    (&certificate.certificate_chain_path, chain.to_string()),
                ];
                for (path, content) in parts {
                    if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                        files.insert(path.clone(), own_file(source, content.into_bytes(), projected.default_mode));
                    }
                }
            } else if let Some(wanted) = &part.cluster_trust_bundle {
                let content = trust_bundle::content(source.state, wanted)?;
                files.insert(wanted.path.clone(), File { content, mode: mode_of(None, projected.default_mode), user: None });
            } else {
                return Err(Error::Config("this source of a projected volume is not supported yet".into()));
            }
        }
    } else {
        return Err(Error::Config(format!("the type of volume {:?} is not supported yet", volume.name)));
    }
    Ok(files)
}

/// What proves who the Pod is: read by whoever its containers run as, where that is known, and nobody else.
fn own_file(source: &Source<'_>, content: Vec<u8>, mode: Option<i32>) -> File {
    let owner = Owner::of(source.pod);
    let is_owned = owner.user.is_some() || owner.group.is_some();
    File { content, mode: if is_owned { TOKEN_MODE } else { mode_of(None, mode) }, user: owner.user }
}

fn needed(
    found: Option<BTreeMap<String, Vec<u8>>>,
    optional: Option<bool>,
    missing: impl Fn() -> String,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    match found {
        Some(data) => Ok(data),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(Error::Config(missing())),
    }
}

fn project(
    files: &mut Files,
    (data, optional): (BTreeMap<String, Vec<u8>>, Option<bool>),
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
) -> Result<(), Error> {
    let file = |content, own| File { content, mode: mode_of(own, mode), user: None };
    match items {
        None => files.extend(data.into_iter().map(|(key, content)| (key, file(content, None)))),
        Some(items) => {
            for item in items {
                let Some(content) = data.get(&item.key) else {
                    if optional == Some(true) {
                        continue;
                    }
                    return Err(Error::Config(format!("references non-existent config key: {}", item.key)));
                };
                files.insert(item.path.clone(), file(content.clone(), item.mode));
            }
        }
    }
    Ok(())
}

fn downward_file(source: &Source<'_>, files: &mut Files, item: &DownwardAPIVolumeFile, mode: Option<i32>) -> Result<(), Error> {
    let content = match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => source.field(&field.field_path)?,
        (_, Some(resource)) => resource_value(source, None, resource)?,
        (None, None) => String::new(),
    };
    files.insert(item.path.clone(), File { content: content.into_bytes(), mode: mode_of(item.mode, mode), user: None });
    Ok(())
}

/// A file's own mode, else the volume's.
fn mode_of(own: Option<i32>, volume: Option<i32>) -> u32 {
    u32::try_from(own.or(volume).unwrap_or(0o644)).unwrap_or(0o644)
}
