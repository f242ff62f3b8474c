//! A command in a container, to its end or its time limit.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skein_cri as v1;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tonic::Status;

use crate::pods::Pods;
use crate::{Error, io};

/// What is kept of a command's output, as kubelets limit it for probes.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A command that has ended may have left the pipe to somebody else.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) async fn exec_sync(pods: &Pods, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Status> {
    let (their_stdout, stdout) = pipe_pair()?;
    let (their_stderr, stderr) = pipe_pair()?;
    let null = std::fs::File::open("/dev/null").map_err(io("cannot open /dev/null")).map_err(Status::from)?;
    let stdio = [OwnedFd::from(null), their_stdout, their_stderr];
    let mut running = pods.exec(&request.container_id, request.cmd.clone(), false, stdio).await?;
    let ended = watch::Sender::new(false);
    let (out, err) = (tokio::spawn(drain(stdout, ended.subscribe())), tokio::spawn(drain(stderr, ended.subscribe())));
    let limit = u64::try_from(request.timeout).ok().filter(|s| *s > 0).map_or(Duration::MAX, Duration::from_secs);
    let Ok(code) = tokio::time::timeout(limit, running.wait()).await else {
        // Its process group: a shell's children go with it.
        let _ = kill(Pid::from_raw(-running.pid), Signal::SIGKILL);
        let _ = kill(Pid::from_raw(running.pid), Signal::SIGKILL);
        let command = request.cmd.join(" ");
        return Err(Status::deadline_exceeded(format!("command {command:?} timed out after {}s", request.timeout)));
    };
    ended.send_replace(true);
    let output = |task: tokio::task::JoinHandle<Vec<u8>>| async { task.await.unwrap_or_default() };
    Ok(v1::ExecSyncResponse { stdout: output(out).await, stderr: output(err).await, exit_code: code? })
}

/// All that comes, and what is still there when the command has ended: its children may hold the pipe open.
async fn drain(mut pipe: pipe::Receiver, mut ended: watch::Receiver<bool>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let left = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            read = pipe.read(&mut buffer) => match read {
                Ok(count @ 1..) if out.len() < OUTPUT_BYTES_MAX => out.extend_from_slice(&buffer[..count]),
                Ok(1..) => {}
                _ => return out,
            },
            () = left => return out,
        }
    }
}

fn pipe_pair() -> Result<(OwnedFd, pipe::Receiver), Error> {
    let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|why| io("cannot make a pipe")(why.into()))?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
        .map_err(|why| io("cannot make a pipe")(why.into()))?;
    Ok((theirs, pipe::Receiver::from_owned_fd(ours).map_err(io("cannot make a pipe"))?))
}
