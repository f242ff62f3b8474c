//! A process at the other end of a stream, whatever that is made of.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::Wanted;
use crate::pods::{Pods, Running};

const READ_BYTES: usize = 32 * 1024;

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize { width: u16, height: u16 },
    Nothing,
}

/// What a process has written.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// How a process ended: its exit code, or why there is none.
pub(super) type End = Result<i32, String>;

/// This end of a process' input and output.
struct Stdio {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    terminal: Option<OwnedFd>,
}

/// What a stream is joined to: a process of its own, or the container's.
struct Joined {
    stdio: Stdio,
    process: Option<Running>,
}

/// Joins a process with its client until it has ended and all that it wrote is sent; `None` when the client has gone, which
/// is when `input` ends or `output` fails.
pub(super) async fn run(
    pods: &Pods,
    wanted: Wanted,
    input: impl Stream<Item = Input> + Unpin,
    output: impl Sink<Output> + Unpin,
) -> Option<End> {
    match Box::pin(join(pods, wanted)).await {
        Ok(joined) => Box::pin(carry(joined, input, output)).await,
        Err(why) => Some(Err(why.to_string())),
    }
}

async fn join(pods: &Pods, wanted: Wanted) -> Result<Joined, crate::Error> {
    let made = || crate::io("cannot make a pipe");
    let (their_stdin, stdin) = pair(Direction::In).map_err(made())?;
    let (their_stdout, stdout) = pair(Direction::Out).map_err(made())?;
    let (their_stderr, stderr) = pair(Direction::Out).map_err(made())?;
    let theirs = [their_stdin, their_stdout, their_stderr];
    let ours = |wants_input: bool| -> io::Result<Stdio> {
        Ok(Stdio {
            stdin: if wants_input { Some(pipe::Sender::from_owned_fd(stdin)?) } else { None },
            stdout: Some(pipe::Receiver::from_owned_fd(stdout)?),
            stderr: Some(pipe::Receiver::from_owned_fd(stderr)?),
            terminal: None,
        })
    };
    match wanted {
        Wanted::Exec(request) => {
            let mut process = pods.exec(&request.container_id, request.cmd, request.tty, theirs).await?;
            let stdio = match process.terminal.take() {
                Some(terminal) => of_terminal(terminal).map_err(made())?,
                None => ours(request.stdin).map_err(made())?,
            };
            Ok(Joined { stdio, process: Some(process) })
        }
        Wanted::PortForward(_) => Err(made()(io::Error::from(io::ErrorKind::Unsupported))),
        Wanted::Attach(request) => {
            let terminal = pods.attach(&request.container_id, theirs).await?;
            let stdio = ours(request.stdin).map_err(made())?;
            Ok(Joined { stdio: Stdio { terminal, ..stdio }, process: None })
        }
    }
}

enum Direction {
    In,
    Out,
}

/// A pipe: the process' end, which waits, and ours, which does not.
fn pair(direction: Direction) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let (theirs, ours) = match direction {
        Direction::In => (read, write),
        Direction::Out => (write, read),
    };
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((theirs, ours))
}

/// A terminal is one descriptor for both directions.
fn of_terminal(terminal: OwnedFd) -> io::Result<Stdio> {
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Stdio {
        stdin: Some(pipe::Sender::from_owned_fd_unchecked(terminal.try_clone()?)?),
        stdout: Some(pipe::Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?),
        stderr: None,
        terminal: Some(terminal),
    })
}

async fn carry(joined: Joined, input: impl Stream<Item = Input> + Unpin, mut output: impl Sink<Output> + Unpin) -> Option<End> {
    let Joined { mut stdio, process } = joined;
    let pid = process.as_ref().map(|p| p.pid);
    let mut code: Option<End> = None;
    let mut ended: Pin<Box<dyn Future<Output = End> + Send>> = match process {
        Some(mut running) => Box::pin(async move { running.wait().await.map_err(|why| why.to_string()) }),
        None => Box::pin(std::future::pending()),
    };
    // Input has a way of its own: a process that writes before it reads must not stop its output.
    let mut typing = std::pin::pin!(listen(input, stdio.stdin.take(), stdio.terminal.as_ref()));
    let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        if stdio.stdout.is_none() && stdio.stderr.is_none() && (code.is_some() || pid.is_none()) {
            return Some(code.unwrap_or(Ok(0)));
        }
        tokio::select! {
            count = read(&mut stdio.stdout, &mut out), if stdio.stdout.is_some() => match count {
                0 => stdio.stdout = None,
                count => output.send(Output::Stdout(Bytes::copy_from_slice(&out[..count]))).await.ok()?,
            },
            count = read(&mut stdio.stderr, &mut err), if stdio.stderr.is_some() => match count {
                0 => stdio.stderr = None,
                count => output.send(Output::Stderr(Bytes::copy_from_slice(&err[..count]))).await.ok()?,
            },
            result = &mut ended, if code.is_none() => {
                code = Some(result);
                // A terminal stays open while we hold it; what the process wrote to it is read first.
                if stdio.terminal.is_some() {
                    while let Some(Ok(count @ 1..)) = stdio.stdout.as_mut().map(|pipe| pipe.try_read(&mut out)) {
                        output.send(Output::Stdout(Bytes::copy_from_slice(&out[..count]))).await.ok()?;
                    }
                    stdio.stdout = None;
                }
            }
            () = &mut typing => {
                // Nobody looks on any more: what runs only for the client ends.
                if let Some(pid) = pid.filter(|_| code.is_none()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                return None;
            }
        }
    }
}

/// Hears the client until it hangs up: input goes to the process as fast as that reads.
async fn listen(mut input: impl Stream<Item = Input> + Unpin, mut stdin: Option<pipe::Sender>, terminal: Option<&OwnedFd>) {
    while let Some(asked) = input.next().await {
        match asked {
            Input::Stdin(bytes) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::CloseStdin => stdin = None,
            Input::Resize { width, height } => {
                if let Some(terminal) = terminal {
                    skein_monitor::resize(terminal, width, height);
                }
            }
            Input::Nothing => {}
        }
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    match pipe {
        // A terminal whose other end is closed says EIO.
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}
