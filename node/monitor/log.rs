//! A container's log file in CRI format: `TIME STREAM F|P TEXT`, a `P` line being continued by the next.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A longer line is cut into parts, as containerd does.
const LINE_BYTES_MAX: usize = 16 * 1024;

pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

/// One stream's unfinished line.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

// === impl Log ===

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file })
    }

    /// After the file was renamed away: goes on in a new one of the old name.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path.clone())?;
        Ok(())
    }

    /// Writes finished lines. What the disk does not take is lost: the container must not stop for its log.
    pub(crate) fn write(&mut self, entries: &[u8]) {
        let _ = self.file.write_all(entries);
    }
}

// === impl Lines ===

impl Lines {
    /// Takes output in; returns entries for the log.
    pub(crate) fn push(&mut self, stream: &str, now: &str, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.cut(stream, now, &bytes[..end], &mut out);
            entry(stream, now, 'F', &std::mem::take(&mut self.rest), &mut out);
            bytes = &bytes[end + 1..];
        }
        self.cut(stream, now, bytes, &mut out);
        out
    }

    /// At the end of the stream: a line without its end is a partial one.
    pub(crate) fn finish(&mut self, stream: &str, now: &str) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.rest.is_empty() {
            entry(stream, now, 'P', &std::mem::take(&mut self.rest), &mut out);
        }
        out
    }

    fn cut(&mut self, stream: &str, now: &str, bytes: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(bytes);
        while self.rest.len() > LINE_BYTES_MAX {
            let part: Vec<u8> = self.rest.drain(..LINE_BYTES_MAX).collect();
            entry(stream, now, 'P', &part, out);
        }
    }
}

fn entry(stream: &str, now: &str, tag: char, text: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "{now} {stream} {tag} ");
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_whole_lines_and_parts_of_long_ones() {
        let mut lines = Lines::default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(text(lines.push("stdout", "T", b"a\nb")), "T stdout F a\n");
        assert_eq!(text(lines.push("stdout", "T", b"c\n\n")), "T stdout F bc\nT stdout F \n");
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(lines.push("stderr", "T", &long).len(), "T stderr P \n".len() + LINE_BYTES_MAX);
        assert_eq!(text(lines.finish("stderr", "T")), "T stderr P x\n");
        assert_eq!(text(lines.finish("stderr", "T")), "");
    }
}
