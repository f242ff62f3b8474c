//! Lines to Pods' monitors.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use skein_monitor::{Answer, Request, SOCKET, receive, send};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::{Error, io};

/// A monitor that does not answer for so long is stuck in the kernel, or stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 16 * 1024;

/// One connection: requests and their answers, in turn.
pub(crate) struct Line {
    stream: UnixStream,
    rest: Vec<u8>,
    fds: Vec<OwnedFd>,
}

// === impl Line ===

impl Line {
    pub(crate) async fn open(directory: &Path) -> Result<Self, Error> {
        let gone = || io("the Pod's monitor is gone");
        // By the directory's descriptor: a socket's address has room for 107 bytes only.
        let held = std::fs::File::open(directory).map_err(gone())?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", held.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(gone())?;
        Ok(Self { stream, rest: Vec::new(), fds: Vec::new() })
    }

    /// Asks, and waits for the answer; descriptors that came with it are in the second part.
    pub(crate) async fn ask(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let mut line = serde_json::to_vec(request).map_err(|why| Error::Invalid(why.to_string()))?;
        line.push(b'\n');
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let asked = async {
            self.send(&line, &raw).await?;
            self.next().await
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| Error::Invalid("the Pod's monitor does not answer".into()))??;
        match answer {
            Answer::Failed(failure) if failure.by_container => Err(Error::Container(failure.message)),
            Answer::Failed(failure) => Err(Error::Invalid(failure.message)),
            other => Ok((other, std::mem::take(&mut self.fds))),
        }
    }

    async fn send(&self, mut bytes: &[u8], fds: &[RawFd]) -> Result<(), Error> {
        let mut fds = fds;
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(io("cannot reach the Pod's monitor"))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || Ok(send(self.stream.as_raw_fd(), bytes, fds)?));
            match sent {
                Ok(count) => {
                    bytes = &bytes[count..];
                    fds = &[];
                }
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(io("cannot reach the Pod's monitor")(why)),
            }
        }
        Ok(())
    }

    /// The next answer or event.
    pub(crate) async fn next(&mut self) -> Result<Answer, Error> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|why| Error::Invalid(format!("the Pod's monitor answers {why}")));
            }
            self.stream.readable().await.map_err(io("cannot hear the Pod's monitor"))?;
            let mut buffer = vec![0; READ_BYTES];
            let (stream, fds) = (&self.stream, &mut self.fds);
            match stream.try_io(Interest::READABLE, || Ok(receive(stream.as_fd(), &mut buffer, fds)?)) {
                Ok(0) => return Err(Error::NotRunning("the Pod's monitor has ended".into())),
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(io("cannot hear the Pod's monitor")(why)),
            }
        }
    }
}
