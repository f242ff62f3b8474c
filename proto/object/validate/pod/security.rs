//! Security contexts, of Pods and of containers.

use serde_json::{Value, json};

use super::super::at::{At, inner_path};
use crate::field::{Errors, Problem};
use crate::names;

pub(super) fn pod(spec: &At<'_>, errors: &mut Errors) {
    let Some(at) = spec.given("securityContext") else { return };
    at.id(&["fsGroup", "runAsUser", "runAsGroup"], errors);
    for group in at.each("supplementalGroups") {
        if group.value.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            errors.invalid(&group.path, group.value.clone(), "must be between 0 and 2147483647, inclusive");
        }
    }
    at.supported("fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
    at.supported("supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    at.supported("seLinuxChangePolicy", &["MountOption", "Recursive"], errors);
    profiles(&at, errors);
    super::super::sysctl::check(spec.value, &spec.path, errors);
}

pub(super) fn container(container: &At<'_>, shares_users: bool, errors: &mut Errors) {
    let Some(at) = container.given("securityContext") else { return };
    at.id(&["runAsUser", "runAsGroup"], errors);
    at.supported("procMount", &["Default", "Unmasked"], errors);
    if shares_users && at.str("procMount") == "Unmasked" {
        errors.invalid(&at.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    if at.value.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if at.flag("privileged") {
            errors.invalid(&at.path, at.value.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let added = at.given("capabilities").is_some_and(|caps| caps.each("add").any(|cap| cap.value == "CAP_SYS_ADMIN"));
        if added {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(&at.path, at.value.clone(), why);
        }
    }
    profiles(&at, errors);
}

fn profiles(at: &At<'_>, errors: &mut Errors) {
    if let Some(profile) = at.given("seccompProfile") {
        seccomp(&profile, errors);
    }
    if let Some(profile) = at.given("appArmorProfile") {
        app_armor(&profile, errors);
    }
    if let Some(options) = at.given("windowsOptions") {
        windows(&options, errors);
    }
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(at: &At<'_>, errors: &mut Errors) {
    let (kind, local) = (at.str("type"), at.given("localhostProfile"));
    if kind.is_empty() {
        errors.required(&at.child("type"), "type is required when seccompProfile is set");
    } else if !PROFILES.contains(&kind) {
        errors.unsupported(&at.child("type"), kind, &PROFILES);
    }
    match (kind, local) {
        ("Localhost", None) => errors.required(&at.child("localhostProfile"), "must be set when seccomp type is Localhost"),
        ("Localhost", Some(local)) => inner_path(local.value.as_str().unwrap_or_default(), &local.path, errors),
        (_, Some(local)) => {
            let shown = json!({"Type": kind, "LocalhostProfile": local.value});
            errors.invalid(&local.path, shown, "can only be set when seccomp type is Localhost");
        }
        (_, None) => {}
    }
}

fn app_armor(at: &At<'_>, errors: &mut Errors) {
    const BYTES_MAX: usize = 4095;
    let (kind, local) = (at.str("type"), at.given("localhostProfile"));
    match (kind, local) {
        ("", _) => errors.required(&at.child("type"), "type is required when appArmorProfile is set"),
        ("Localhost", None) => errors.required(&at.child("localhostProfile"), "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(local)) => {
            let name = local.value.as_str().unwrap_or_default();
            if name.trim() != name {
                errors.invalid(&local.path, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&local.path, "must be set when AppArmor type is Localhost");
            }
            if name.len() > BYTES_MAX {
                errors.add(&local.path, Problem::TooLong(BYTES_MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            errors.invalid(&local.path, local.value.clone(), "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => errors.unsupported(&at.child("type"), other, &PROFILES),
    }
}

/// Windows has no place here, but objects that speak of it are judged all the same.
fn windows(at: &At<'_>, errors: &mut Errors) {
    const DOMAIN_MAX: usize = 256;
    const USER_MAX: usize = 104;
    if let Some(name) = at.given("gmsaCredentialSpecName") {
        errors.judge(&name.path, name.value.clone(), names::subdomain(name.value.as_str().unwrap_or_default()));
    }
    if let Some(credentials) = at.given("gmsaCredentialSpec").filter(|spec| spec.value == "") {
        errors.invalid(&credentials.path, "", "gmsaCredentialSpec cannot be an empty string");
    }
    let Some(given) = at.given("runAsUserName") else { return };
    let name = given.value.as_str().unwrap_or_default();
    let mut wrong = |why: &str| errors.invalid(&given.path, name, why);
    if name.is_empty() {
        return wrong("runAsUserName cannot be an empty string");
    }
    if name.contains(char::is_control) {
        return wrong("runAsUserName cannot contain control characters");
    }
    if name.matches('\\').count() > 1 {
        return wrong("runAsUserName cannot contain more than one backslash");
    }
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    let is_net_bios = |text: &str| {
        (1..=15).contains(&text.len()) && !text.starts_with('.') && !text.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
    };
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_MAX) {
        wrong("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && names::subdomain(&domain.to_lowercase()).is_err()) {
        wrong("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        wrong("runAsUserName's User cannot be empty");
    } else if user.len() > USER_MAX {
        wrong("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        wrong("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        wrong("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}
