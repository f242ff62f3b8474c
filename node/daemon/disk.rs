//! Whether the node's disk takes writes.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// A store that starts with less room would soon fail again: a log file, a few tables.
const BYTES_FREE_MIN: u64 = 64 * 1024 * 1024;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const PROBE: &str = "probe";

/// Waits until there is room again and a write reaches the disk.
pub(crate) async fn writable(directory: &Path) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let directory = directory.to_path_buf();
        if tokio::task::spawn_blocking(move || takes_writes(&directory)).await.unwrap_or(false) {
            return;
        }
    }
}

fn takes_writes(directory: &Path) -> bool {
    let free = nix::sys::statvfs::statvfs(directory).map_or(0, |s| s.blocks_available() * s.fragment_size());
    if free < BYTES_FREE_MIN {
        return false;
    }
    let path = directory.join(PROBE);
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(&[0; 4096]).and_then(|()| file.sync_all()));
    let _ = std::fs::remove_file(path);
    written.is_ok()
}
