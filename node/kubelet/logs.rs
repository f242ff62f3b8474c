//! Container logs, in CRI format: `TIME STREAM F|P TEXT`, a `P` line being continued by the next.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;

/// What a reader asks for: `PodLogOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) limit_bytes: Option<usize>,
    pub(crate) since: Option<Timestamp>,
}

/// While following, how often the file is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// The directory of a Pod's logs.
pub(crate) fn directory(root: &Path, pod: &Pod) -> PathBuf {
    let metadata = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    root.join("logs").join(format!("{}_{}_{}", text(&metadata.namespace), text(&metadata.name), text(&metadata.uid)))
}

/// Below that directory, the file of one attempt.
pub(crate) fn file(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// One line of a log file, taken apart.
fn parse(line: &str) -> Option<(&str, bool, &str)> {
    let mut parts = line.splitn(4, ' ');
    let (time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    Some((time, tag.starts_with('F'), parts.next().unwrap_or_default()))
}

/// Formats lines of the file for a client.
pub(crate) fn format(lines: &[&str], query: &Query) -> Vec<u8> {
    let mut out = Vec::new();
    let mut continued = false;
    for line in lines {
        let Some((time, complete, text)) = parse(line) else { continue };
        if query.since.is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|t| t < since)) {
            continue;
        }
        if query.timestamps && !continued {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text.as_bytes());
        if complete {
            out.push(b'\n');
        }
        continued = !complete;
    }
    out
}

struct Reader {
    path: PathBuf,
    query: Query,
    /// The open file and its inode: it is read to its end, also after it was rotated away.
    file: Option<(tokio::fs::File, u64)>,
    rest: Vec<u8>,
    sent: usize,
    first: bool,
    ended: bool,
    /// Tells whether the container still runs.
    alive: Box<dyn Fn() -> futures::future::BoxFuture<'static, bool> + Send + Sync>,
}

/// The log as a stream of bytes, which goes on while the container runs when it is followed.
pub(crate) fn read(
    path: PathBuf,
    query: Query,
    alive: Box<dyn Fn() -> futures::future::BoxFuture<'static, bool> + Send + Sync>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let reader = Reader { path, query, file: None, rest: Vec::new(), sent: 0, first: true, ended: false, alive };
    futures::stream::unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), reader)),
            Ok(None) => None,
            Err(why) => {
                reader.ended = true;
                Some((Err(why), reader))
            }
        }
    })
}

// === impl Reader ===

impl Reader {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.ended {
            // Asked before reading: what is written until the container ends is then read after it.
            let goes_on = self.query.follow && (self.alive)().await;
            let mut content = self.fill().await?;
            self.ended = !goes_on;
            if let Some(limit) = self.query.limit_bytes {
                content.truncate(limit.saturating_sub(self.sent));
                self.ended |= self.sent + content.len() >= limit;
            }
            self.sent += content.len();
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
            if !self.ended {
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }
        Ok(None)
    }

    /// Reads what is new in the file, as far as it has whole lines.
    async fn fill(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            let (mut file, inode) = match self.file.take() {
                Some(open) => open,
                None => match tokio::fs::File::open(&self.path).await {
                    Ok(file) => {
                        let inode = file.metadata().await?.ino();
                        (file, inode)
                    }
                    Err(why) if why.kind() == std::io::ErrorKind::NotFound => break,
                    Err(why) => return Err(why),
                },
            };
            // Seen before reading: what the old file got until then is read below.
            let current = tokio::fs::metadata(&self.path).await.map(|m| m.ino()).ok();
            let read = file.read_to_end(&mut self.rest).await?;
            let rotated = current.is_some_and(|current| current != inode);
            if !rotated || read > 0 {
                self.file = Some((file, inode));
            }
            if !rotated {
                break;
            }
        }
        let end = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let text = String::from_utf8_lossy(&whole);
        let mut lines: Vec<&str> = text.lines().collect();
        if std::mem::take(&mut self.first)
            && let Some(tail) = self.query.tail
        {
            let skip = lines.len().saturating_sub(tail);
            lines.drain(..skip);
        }
        Ok(format(&lines, &self.query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_partial_lines_and_filters_by_time() {
        let lines = ["2026-01-01T00:00:00Z stdout P ab", "2026-01-01T00:00:00Z stdout F c", "2026-01-01T00:00:09Z stderr F d e"];
        let check = |query: Query, expected: &str| assert_eq!(String::from_utf8_lossy(&format(&lines, &query)), expected);
        check(Query::default(), "abc\nd e\n");
        check(Query { timestamps: true, ..Query::default() }, "2026-01-01T00:00:00Z abc\n2026-01-01T00:00:09Z d e\n");
        check(Query { since: "2026-01-01T00:00:05Z".parse().ok(), ..Query::default() }, "d e\n");
    }
}
