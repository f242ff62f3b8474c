//! A containerd for each node, of Debian's package, with directories of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{Node, process};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE_IMAGE: &str = "skein.local/pause:1";

pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}

/// Starts it where it does not run, with the image that holds Pods' namespaces.
pub(crate) fn ensure(node: &Node, directory: &Path, program: &Path, insecure_registries: &[String]) -> Result<()> {
    if process::running(directory, "containerd").is_some() && process::answers(&socket(directory)) {
        return Ok(());
    }
    let bin = directory.join("cni-bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(directory.join("cni"))?;
    // The CNI plugins are this same program under their names.
    for name in ["skein-cni", "loopback"] {
        let plugin = bin.join(name);
        let _ = std::fs::remove_file(&plugin);
        std::os::unix::fs::symlink(program, &plugin)?;
    }
    for registry in insecure_registries {
        let place = directory.join("certs.d").join(registry);
        std::fs::create_dir_all(&place)?;
        std::fs::write(place.join("hosts.toml"), format!("[host.\"http://{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"))?;
    }
    let config = directory.join("containerd.toml");
    std::fs::write(&config, toml(directory))?;
    let daemon = Path::new("/usr/bin/containerd");
    ensure!(daemon.exists(), "{} is missing: apt-get install containerd runc", daemon.display());
    process::spawn(node, directory, "containerd", (daemon, &["--config".into(), config.display().to_string()], &[]))?;
    let begin = Instant::now();
    while !process::answers(&socket(directory)) {
        if begin.elapsed() > START_TIMEOUT {
            bail!("containerd of {} does not answer: see {}", node.name, directory.join("containerd.log").display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    load(directory, &pause_archive(directory)?)
}

/// The machine was killed: what containerd kept in memory-backed places is gone with it.
pub(crate) fn forget(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory.join("containerd/state"));
    let _ = std::fs::remove_file(socket(directory));
}

pub(crate) fn load(directory: &Path, image: &Path) -> Result<()> {
    let output =
        Command::new("ctr").arg("--address").arg(socket(directory)).args(["--namespace", "k8s.io", "images", "import"]).arg(image).output();
    let output = output.context("cannot run ctr: is containerd installed?")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn toml(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{bin}"
  conf_dir = "{conf}"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{certs}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
"#,
        root = at("containerd/root"),
        state = at("containerd/state"),
        socket = at("containerd.sock"),
        bin = at("cni-bin"),
        conf = at("cni"),
        opt = at("containerd/opt"),
        certs = at("certs.d"),
    )
}

/// An image that sleeps, from Debian's static busybox.
fn pause_archive(directory: &Path) -> Result<PathBuf> {
    let archive = directory.join("pause.tar");
    if !archive.exists() {
        let busybox = Path::new("/bin/busybox");
        ensure!(busybox.exists(), "{} is missing: apt-get install busybox-static", busybox.display());
        let files = [crate::image::File { source: busybox.into(), path: "bin/busybox".into() }];
        let image =
            crate::image::Image { name: PAUSE_IMAGE, entrypoint: &["/bin/busybox", "sleep", "2147483647"], files: &files, links: &[] };
        crate::image::write(&archive, &image)?;
    }
    Ok(archive)
}
