//! Keeps processes running that outlive this one, each known by the socket at which it answers: the container runtime,
//! and the agent of experiments.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;
use tracing::{info, warn};

/// How often a process is looked for. A Pod that is to start waits this long at most for a runtime that has died.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// One that has just been started gets so long until it is started again.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts it where none answers, for as long as this process lives.
pub(crate) async fn keep(name: &'static str, command: Vec<String>, endpoint: PathBuf) {
    loop {
        if !answers(&endpoint).await {
            start(name, &command, &endpoint).await;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn start(name: &str, command: &[String], endpoint: &Path) {
    let Some((program, arguments)) = command.split_first() else { return };
    info!(endpoint = %endpoint.display(), "starting {name}");
    // A group of its own: what stops this daemon's group leaves it, and its containers, alone.
    let started = Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(why) => return warn!(%program, %why, "{name} cannot be started"),
    };
    let up = async {
        while !answers(endpoint).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = up => {}
        status = child.wait() => warn!(?status, "{name} has ended"),
        () = tokio::time::sleep(START_TIMEOUT) => warn!("{name} does not answer"),
    }
    // Waited for, so that it does not stay behind as a zombie.
    tokio::spawn(async move { child.wait().await });
}

async fn answers(endpoint: &Path) -> bool {
    UnixStream::connect(endpoint).await.is_ok()
}
