//! A process at the other end of a websocket.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Wanted;
use super::websocket::{Input, Protocol, STDERR, STDOUT, end, message, parse};
use crate::pods::{Pods, Running};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

const READ_BYTES: usize = 32 * 1024;

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

pub(super) async fn stream(pods: &Pods, wanted: Wanted, mut socket: Socket, protocol: Protocol) -> Result<(), Error> {
    let result = match Box::pin(join(pods, wanted)).await {
        Ok(joined) => Box::pin(carry(joined, &mut socket, protocol)).await?,
        Err(why) => Err(why.to_string()),
    };
    if let Some(told) = end(protocol, &result) {
        socket.send(Message::Binary(told)).await?;
    }
    // Without a code kubectl takes the close for a failure.
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await
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

/// Carries input and output until the process has ended and all that it wrote is sent, or the client has gone.
async fn carry(joined: Joined, socket: &mut Socket, protocol: Protocol) -> Result<Result<i32, String>, Error> {
    let Joined { mut stdio, process } = joined;
    let pid = process.as_ref().map(|p| p.pid);
    let mut code: Option<Result<i32, String>> = None;
    let mut ended: Pin<Box<dyn Future<Output = Result<i32, String>> + Send>> = match process {
        Some(mut running) => Box::pin(async move { running.wait().await.map_err(|why| why.to_string()) }),
        None => Box::pin(std::future::pending()),
    };
    let (mut sink, source) = socket.split();
    // Input has a way of its own: a process that writes before it reads must not stop its output.
    let mut typing = std::pin::pin!(listen(source, stdio.stdin.take(), stdio.terminal.as_ref(), protocol));
    let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        if stdio.stdout.is_none() && stdio.stderr.is_none() && (code.is_some() || pid.is_none()) {
            return Ok(code.unwrap_or(Ok(0)));
        }
        tokio::select! {
            count = read(&mut stdio.stdout, &mut out), if stdio.stdout.is_some() => match count {
                0 => stdio.stdout = None,
                count => sink.send(Message::Binary(message(STDOUT, &out[..count]))).await?,
            },
            count = read(&mut stdio.stderr, &mut err), if stdio.stderr.is_some() => match count {
                0 => stdio.stderr = None,
                count => sink.send(Message::Binary(message(STDERR, &err[..count]))).await?,
            },
            result = &mut ended, if code.is_none() => {
                code = Some(result);
                // A terminal stays open while we hold it; what the process wrote to it is read first.
                if stdio.terminal.is_some() {
                    while let Some(Ok(count @ 1..)) = stdio.stdout.as_mut().map(|pipe| pipe.try_read(&mut out)) {
                        sink.send(Message::Binary(message(STDOUT, &out[..count]))).await?;
                    }
                    stdio.stdout = None;
                }
            }
            () = &mut typing => {
                // Nobody looks on any more: what runs only for the client ends.
                if let Some(pid) = pid.filter(|_| code.is_none()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                return Err(Error::ConnectionClosed);
            }
        }
    }
}

/// Hears the client until it hangs up: input goes to the process as fast as that reads.
async fn listen(mut source: SplitStream<&mut Socket>, mut stdin: Option<pipe::Sender>, terminal: Option<&OwnedFd>, protocol: Protocol) {
    while let Some(Ok(asked)) = source.next().await {
        let Message::Binary(bytes) = asked else {
            if asked.is_close() {
                return;
            }
            continue;
        };
        match parse(protocol, &bytes) {
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
