//! Paths of the node, checked for what they should be (`pkg/volume/hostpath`).

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::failed;
use crate::Error;

pub(super) fn prepare(stated: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&stated.path);
    let kind = stated.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(&path).map_err(failed(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed(&path))?;
        }
        "FileOrCreate" if !path.exists() => {
            fs::write(&path, "").map_err(failed(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed(&path))?;
        }
        _ => {}
    }
    let found = fs::metadata(&path).ok().map(|metadata| metadata.file_type());
    let is = |check: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(check);
    let (holds, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(|t| t.is_socket()), "a socket file"),
        "CharDevice" => (is(|t| t.is_char_device()), "a character device"),
        "BlockDevice" => (is(|t| t.is_block_device()), "a block device"),
        // Nothing was asked for: the runtime makes a directory where nothing is.
        _ => (true, ""),
    };
    if holds { Ok(path) } else { Err(Error::Config(format!("hostPath type check failed: {} is not {what}", stated.path))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_it_should_be() {
        let directory = std::env::temp_dir().join(format!("skein-host-path-test-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let check = |name: &str, kind: &str, expected: bool| {
            let stated = HostPathVolumeSource { path: directory.join(name).display().to_string(), type_: Some(kind.into()) };
            assert_eq!(prepare(&stated).is_ok(), expected, "{name} {kind}");
        };
        check("none", "", true);
        check("none", "Directory", false);
        check("none", "File", false);
        check("file", "FileOrCreate", true);
        check("file", "File", true);
        check("file", "DirectoryOrCreate", false);
        check("sub/directory", "DirectoryOrCreate", true);
        check("sub/directory", "Directory", true);
        check("file", "Socket", false);
        let _ = fs::remove_dir_all(directory);
    }
}
