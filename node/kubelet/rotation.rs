//! Rotates containers' logs: a file that has grown too large is renamed, older ones are compressed, the oldest removed
//! (kubelet's `containerLogMaxSize` and `containerLogMaxFiles`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use skein_cri::ContainerState;
use tracing::warn;

use crate::worker::Shared;

const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        rotate_all(&shared).await;
    }
}

async fn rotate_all(shared: &Shared) {
    let Ok(containers) = shared.runtime.containers(None).await else { return };
    for container in containers.into_iter().filter(|c| c.state == i32::from(ContainerState::ContainerRunning)) {
        let Ok(status) = shared.runtime.container_status(&container.id).await else { continue };
        let path = PathBuf::from(&status.log_path);
        if fs::metadata(&path).map_or(0, |m| m.len()) <= shared.options.logs.bytes_max {
            continue;
        }
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let rotated = put_aside(&path, &now, shared.options.logs.files_max);
        // Until it is told, the runtime goes on in the renamed file: no line is lost.
        let reopened = shared.runtime.reopen_log(&container.id).await;
        if let Err(why) = rotated.map_err(|e| e.to_string()).and(reopened.map_err(|e| e.to_string())) {
            warn!(log = %path.display(), %why, "a log cannot be rotated");
        }
    }
}

/// Renames the file, compresses those that were renamed before, and keeps `files_max` in all.
fn put_aside(path: &Path, now: &str, files_max: usize) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prefix = format!("{name}.");
    let mut older: Vec<PathBuf> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?.flatten().map(|e| e.path()).collect();
    older.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
    // Names end with the time, so their order is that of age.
    older.sort();
    let excess = (older.len() + 2).saturating_sub(files_max);
    for path in older.drain(..excess.min(older.len())) {
        fs::remove_file(path)?;
    }
    for plain in older.iter().filter(|p| p.extension().is_none_or(|x| x != "gz")) {
        compress(plain)?;
    }
    fs::rename(path, path.with_file_name(format!("{prefix}{now}")))
}

fn compress(path: &Path) -> io::Result<()> {
    let target = PathBuf::from(format!("{}.gz", path.display()));
    let temporary = target.with_extension("tmp");
    let mut out = GzEncoder::new(fs::File::create(&temporary)?, Compression::default());
    io::copy(&mut fs::File::open(path)?, &mut out)?;
    out.finish()?;
    fs::rename(temporary, target)?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_so_many_files_and_compresses_all_but_the_newest_two() {
        let directory = std::env::temp_dir().join(format!("skein-rotation-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("0.log");
        for round in 1..=5 {
            fs::write(&path, format!("round {round}\n")).expect("a file");
            put_aside(&path, &format!("20260101-00000{round}"), 3).expect("rotated");
        }
        let mut names: Vec<String> =
            fs::read_dir(&directory).expect("a directory").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, ["0.log.20260101-000004.gz", "0.log.20260101-000005"]);
        let _ = fs::remove_dir_all(directory);
    }
}
