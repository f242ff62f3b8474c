//! What a container says at its end: the file at its `terminationMessagePath`, or the end of its log.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use skein_cri as v1;

use crate::{Error, logs};

/// What is kept of the file, and of the log (`pkg/kubelet/container`).
const MESSAGE_BYTES_MAX: u64 = 4096;
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// Enough for that many bytes of text, with each line's time and stream before it.
const LOG_READ_BYTES_MAX: u64 = 64 * 1024;

/// Where the file is mounted, unless the container says otherwise.
const PATH: &str = "/dev/termination-log";

fn inside(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(PATH)
}

fn on_node(pod: &Path, container: &str, attempt: u32) -> PathBuf {
    pod.join("termination").join(container).join(attempt.to_string())
}

/// An empty file on the node that anybody in the container may write to, and its mount.
pub(crate) fn prepare(pod: &Path, container: &Container, attempt: u32) -> Result<v1::Mount, Error> {
    let path = on_node(pod, &container.name, attempt);
    let make = || {
        fs::create_dir_all(path.parent().unwrap_or(pod))?;
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|source| Error::Io { what: path.display().to_string(), source })?;
    Ok(v1::Mount { container_path: inside(container).into(), host_path: path.display().to_string(), ..Default::default() })
}

/// The message of an attempt that has ended, of at most 4 KiB; `log` is its log file.
pub(crate) fn message(pod: &Path, container: &Container, (attempt, code): (u32, i32), log: &Path) -> String {
    let mut said = end_of(&on_node(pod, &container.name, attempt), MESSAGE_BYTES_MAX).unwrap_or_default();
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
    if said.is_empty() && falls_back {
        let text = String::from_utf8_lossy(&end_of(log, LOG_READ_BYTES_MAX).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        said = logs::format(&lines[lines.len().saturating_sub(LOG_LINES_MAX)..], &logs::Query::default());
        said.drain(..said.len().saturating_sub(LOG_BYTES_MAX));
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn end_of(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut end = Vec::new();
    file.take(bytes_max).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_log_speaks_where_a_failed_container_said_nothing() {
        let pod = std::env::temp_dir().join(format!("skein-termination-test-{}", std::process::id()));
        let log = pod.join("log");
        let container = |policy: &str| -> Container {
            serde_json::from_value(json!({"name": "c", "terminationMessagePolicy": policy})).expect("a container")
        };
        let file = prepare(&pod, &container("File"), 0).expect("a file");
        assert_eq!(file.container_path, PATH);
        fs::write(&log, "2026-01-01T00:00:00Z stdout F last words\n").expect("a log");
        let check = |policy: &str, code: i32, expected: &str| assert_eq!(message(&pod, &container(policy), (0, code), &log), expected);
        check("File", 1, "");
        check("FallbackToLogsOnError", 0, "");
        check("FallbackToLogsOnError", 1, "last words\n");
        fs::write(&file.host_path, "x".repeat(5000) + "end").expect("a message");
        check("FallbackToLogsOnError", 1, &("x".repeat(4093) + "end"));
        let _ = fs::remove_dir_all(pod);
    }
}
