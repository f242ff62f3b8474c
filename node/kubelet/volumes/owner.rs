//! Whom a volume's files belong to: the Pod's `fsGroup` (`pkg/volume/volume_linux.go`).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::failed;
use crate::Error;

/// What the group may do with the files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Read,
    ReadWrite,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    /// Whom a token's file belongs to: as whom all of the Pod's containers run.
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    /// Nothing is changed where the root is as it should be.
    on_root_mismatch: bool,
}

const SET_GROUP_ID: u32 = 0o2000;

// === impl Owner ===

impl Owner {
    pub(crate) fn of(pod: &Pod) -> Self {
        let context = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
        let user_of = |container: &Container| container.security_context.as_ref().and_then(|c| c.run_as_user).or(context.run_as_user);
        let containers = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        let mut users: Vec<Option<i64>> = containers.map(user_of).collect();
        users.dedup();
        let user = if let [Some(user)] = users[..] { u32::try_from(user).ok() } else { None };
        Self {
            user,
            group: context.fs_group.and_then(|group| u32::try_from(group).ok()),
            on_root_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch"),
        }
    }

    /// Gives the group everything at and below a path, to read and to write.
    pub(crate) fn give_all(&self, path: &Path) -> Result<(), Error> {
        self.give(path, Mode::ReadWrite)
    }

    /// Gives the group everything at and below a path.
    pub(crate) fn give(&self, path: &Path, mode: Mode) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        let root = fs::metadata(path).map_err(failed(path))?;
        if self.on_root_mismatch && root.gid() == group && root.mode() & bits(mode, true) == bits(mode, true) {
            return Ok(());
        }
        give(path, group, mode)
    }
}

fn bits(mode: Mode, is_directory: bool) -> u32 {
    let file = if mode == Mode::Read { 0o440 } else { 0o660 };
    if is_directory { file | 0o110 | SET_GROUP_ID } else { file }
}

/// The deepest first: a root that is right says that all below it is.
fn give(path: &Path, group: u32, mode: Mode) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(failed(path))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(failed(path))? {
            give(&entry.map_err(failed(path))?.path(), group, mode)?;
        }
    }
    lchown(path, None, Some(group)).map_err(failed(path))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let permissions = metadata.permissions().mode() | bits(mode, metadata.is_dir());
    fs::set_permissions(path, fs::Permissions::from_mode(permissions)).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tokens_belong_to_the_one_user_of_all_containers() {
        let check = |context: Value, containers: Value, expected: Option<u32>| {
            let pod = json!({"spec": {"securityContext": context, "containers": containers}});
            assert_eq!(Owner::of(&serde_json::from_value(pod).expect("a Pod")).user, expected);
        };
        let run_as = |user: i64| json!({"name": "c", "securityContext": {"runAsUser": user}});
        check(json!({}), json!([{"name": "c"}]), None);
        check(json!({"runAsUser": 5}), json!([{"name": "c"}, run_as(5)]), Some(5));
        check(json!({}), json!([run_as(5), run_as(6)]), None);
        check(json!({}), json!([run_as(5), {"name": "d"}]), None);
    }

    #[test]
    fn a_group_may_read_and_write_what_it_was_given() {
        let root = std::env::temp_dir().join(format!("skein-owner-test-{}", std::process::id()));
        fs::create_dir_all(root.join("d")).expect("a directory");
        fs::write(root.join("d/f"), "").expect("a file");
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).expect("a mode");
        let owner = Owner { user: None, group: Some(nix::unistd::getgid().as_raw()), on_root_mismatch: true };
        owner.give(&root, Mode::ReadWrite).expect("given");
        let mode = |name: &str| fs::metadata(root.join(name)).expect("is there").mode() & 0o7777;
        assert_eq!((mode("d/f"), mode("d") & SET_GROUP_ID), (0o660, SET_GROUP_ID));
        // The root is right: nothing below is looked at.
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).expect("a mode");
        owner.give(&root, Mode::ReadWrite).expect("given");
        assert_eq!(mode("d/f"), 0o600);
        let _ = fs::remove_dir_all(root);
    }
}
