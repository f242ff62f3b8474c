//! SPDY/3.1 frames, as far as Kubernetes' clients use them: several streams on one connection, each with headers.
//!
//! Nobody on either side of Kubernetes does flow control by windows, so frames of it are read and forgotten. Headers are
//! compressed with one dictionary and one state for each direction of a connection (draft-mbelshe-httpbis-spdy-00,
//! sections 2.2 and 2.6.10).

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// The protocol's name in `Upgrade`.
pub(super) const NAME: &str = "SPDY/3.1";

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

/// A frame is at most this large, and so are the headers of a stream.
const FRAME_BYTES_MAX: usize = 1 << 20;
const HEADERS_BYTES_MAX: usize = 64 << 10;

/// Data is sent in pieces of this size, so that streams take turns.
pub(super) const DATA_BYTES: usize = 32 << 10;

/// What the other end says.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Open {
        id: u32,
        headers: BTreeMap<String, String>,
        is_last: bool,
    },
    Data {
        id: u32,
        bytes: Bytes,
        is_last: bool,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, windows and the like.
    Other,
}

/// What is to be said to it.
pub(super) enum Out {
    Reply(u32),
    Ping(u32),
    Data(u32, Bytes, bool),
}

pub(super) struct Reader {
    inflate: Decompress,
    is_primed: bool,
}

pub(super) struct Writer {
    deflate: Compress,
}

/// The words that headers are made of, and how a text of common values ends the dictionary.
fn dictionary() -> &'static [u8] {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
        authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
        content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
        if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after \
        server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version \
        HTTP/1.1 url public set-cookie keep-alive origin";
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
        Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error\
        501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, \
        Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,public\
        privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in WORDS.split_whitespace() {
            let word = word.replace('_', " ");
            bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
            bytes.extend_from_slice(word.as_bytes());
        }
        bytes.extend_from_slice(TAIL.as_bytes());
        bytes
    })
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

// === impl Reader ===

impl Reader {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true), is_primed: false }
    }

    /// The next frame; `None` when the connection ended between two.
    pub(super) async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        match from.read_exact(&mut head).await {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(malformed("a frame is too large"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        self.parse(word, flags, body).map(Some)
    }

    fn parse(&mut self, word: u32, flags: u8, body: Vec<u8>) -> io::Result<Frame> {
        let is_last = flags & FLAG_FIN != 0;
        if word >> 31 == 0 {
            return Ok(Frame::Data { id: word, bytes: body.into(), is_last });
        }
        if (word >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(malformed("another version"));
        }
        let number = |at: usize| -> io::Result<u32> {
            let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(|| malformed("a frame is too short"))?;
            Ok(u32::from_be_bytes(bytes))
        };
        match word & 0xffff {
            1 => {
                let id = number(0)? & 0x7fff_ffff;
                let block = body.get(10..).ok_or_else(|| malformed("a frame is too short"))?;
                Ok(Frame::Open { id, headers: self.headers(block)?, is_last })
            }
            3 => Ok(Frame::Reset { id: number(0)? & 0x7fff_ffff }),
            6 => Ok(Frame::Ping { id: number(0)? }),
            7 => Ok(Frame::GoAway),
            // Headers and replies carry state of the compression.
            2 | 8 => self.headers(body.get(4..).unwrap_or_default()).map(|_| Frame::Other),
            _ => Ok(Frame::Other),
        }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<BTreeMap<String, String>> {
        let bytes = self.inflate(block)?;
        let mut rest = bytes.as_slice();
        let mut take = |wanted: Option<usize>| -> io::Result<Vec<u8>> {
            let length = match wanted {
                Some(length) => length,
                None => {
                    let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| malformed("headers end early"))?;
                    rest = tail;
                    u32::from_be_bytes(*head) as usize
                }
            };
            let (content, tail) = rest.split_at_checked(length).ok_or_else(|| malformed("headers end early"))?;
            rest = tail;
            Ok(content.to_vec())
        };
        let count = take(Some(4))?;
        let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
        let mut headers = BTreeMap::new();
        for _ in 0..count.min(256) {
            let (name, value) = (take(None)?, take(None)?);
            headers.insert(String::from_utf8_lossy(&name).to_lowercase(), String::from_utf8_lossy(&value).into_owned());
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let (mut out, mut read) = (Vec::with_capacity(1024), 0);
        loop {
            if out.len() == out.capacity() {
                if out.len() >= HEADERS_BYTES_MAX {
                    return Err(malformed("headers are too large"));
                }
                out.reserve(1024);
            }
            let before = (self.inflate.total_in(), out.len());
            let result = self.inflate.decompress_vec(&block[read..], &mut out, FlushDecompress::Sync);
            read += usize::try_from(self.inflate.total_in() - before.0).unwrap_or(0);
            match result {
                Err(why) if why.needs_dictionary().is_some() && !self.is_primed => {
                    self.inflate.set_dictionary(dictionary()).map_err(|_| malformed("another dictionary"))?;
                    self.is_primed = true;
                }
                Err(_) => return Err(malformed("headers cannot be decompressed")),
                Ok(Status::Ok | Status::BufError) if read < block.len() || out.len() == out.capacity() => {
                    if self.inflate.total_in() == before.0 && out.len() == before.1 && out.len() < out.capacity() {
                        return Err(malformed("headers cannot be decompressed"));
                    }
                }
                Ok(_) => return Ok(out),
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(dictionary()).map_err(|_| malformed("the dictionary is refused"))?;
        Ok(Self { deflate })
    }

    /// Accepts a stream, with no headers.
    pub(super) fn reply(&mut self, id: u32) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(256);
        self.deflate
            .compress_vec(&0u32.to_be_bytes(), &mut block, FlushCompress::Sync)
            .map_err(|_| malformed("headers cannot be compressed"))?;
        let mut body = id.to_be_bytes().to_vec();
        body.extend_from_slice(&block);
        Ok(control(2, &body))
    }

    pub(super) fn ping(id: u32) -> Vec<u8> {
        control(6, &id.to_be_bytes())
    }

    /// A piece of a stream, of [`DATA_BYTES`] at most.
    pub(super) fn data(id: u32, bytes: &[u8], is_last: bool) -> Vec<u8> {
        let mut frame = id.to_be_bytes().to_vec();
        frame.extend_from_slice(&head(if is_last { FLAG_FIN } else { 0 }, bytes.len()));
        frame.extend_from_slice(bytes);
        frame
    }
}

/// Says everything that is queued, until nobody is left who could queue.
pub(super) async fn write(mut to: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Out>) -> io::Result<()> {
    let mut writer = Writer::new()?;
    while let Some(out) = queue.recv().await {
        let frame = match out {
            Out::Reply(id) => writer.reply(id)?,
            Out::Ping(id) => Writer::ping(id),
            Out::Data(id, bytes, is_last) => Writer::data(id, &bytes, is_last),
        };
        to.write_all(&frame).await?;
        to.flush().await?;
    }
    to.shutdown().await
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&head(0, body.len()));
    frame.extend_from_slice(body);
    frame
}

/// Flags and length.
fn head(flags: u8, length: usize) -> [u8; 4] {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    [flags, length[1], length[2], length[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client sends to open a stream.
    fn open(deflate: &mut Compress, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).expect("few").to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("it can be compressed");
        let mut body = id.to_be_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&block);
        control(1, &body)
    }

    #[tokio::test]
    async fn reads_streams_with_headers_and_data() {
        // The checksum by which zlib knows the protocol's dictionary.
        assert_eq!(dictionary().len(), 1423);
        let mut deflate = Compress::new(Compression::default(), true);
        assert_eq!(deflate.set_dictionary(dictionary()).expect("a dictionary"), 0xe3c6_a7c2);
        let mut bytes = open(&mut deflate, 1, &[("streamtype", "error"), ("port", "80")]);
        bytes.extend(open(&mut deflate, 3, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]));
        bytes.extend(Writer::data(3, b"hello", true));
        bytes.extend(Writer::ping(7));
        let (mut reader, mut from) = (Reader::new(), bytes.as_slice());
        let mut frames = Vec::new();
        while let Some(frame) = reader.next(&mut from).await.expect("a frame") {
            frames.push(frame);
        }
        let headers = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        assert_eq!(
            frames,
            [
                Frame::Open { id: 1, headers: headers(&[("streamtype", "error"), ("port", "80")]), is_last: false },
                Frame::Open { id: 3, headers: headers(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]), is_last: false },
                Frame::Data { id: 3, bytes: Bytes::from_static(b"hello"), is_last: true },
                Frame::Ping { id: 7 },
            ]
        );
    }

    #[tokio::test]
    async fn understands_its_own_replies() {
        let mut writer = Writer::new().expect("a writer");
        let mut bytes = writer.reply(1).expect("a reply");
        bytes.extend(writer.reply(3).expect("a reply"));
        let (mut reader, mut from) = (Reader::new(), bytes.as_slice());
        assert_eq!(reader.next(&mut from).await.expect("a frame"), Some(Frame::Other));
        assert_eq!(reader.next(&mut from).await.expect("a frame"), Some(Frame::Other));
        assert_eq!(reader.next(&mut from).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        for bytes in [&[0x80, 9, 0, 1, 0, 0, 0, 0][..], &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..], &[0x80, 3, 0, 1, 0, 0, 0, 1, 0][..]] {
            assert!(Reader::new().next(&mut &bytes[..]).await.is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever a client sends ends, in frames or in an error; also where it begins as a client should.
        #[test]
        fn any_bytes_are_read_or_refused(kind in 0..20_u16, noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let mut deflate = Compress::new(Compression::default(), true);
            deflate.set_dictionary(dictionary()).expect("a dictionary");
            let opened = [open(&mut deflate, 1, &[("streamtype", "error")]), control(kind, &noise)].concat();
            for bytes in [&noise, &opened] {
                let (mut reader, mut from) = (Reader::new(), bytes.as_slice());
                let read = async { while let Ok(Some(_)) = reader.next(&mut from).await {} };
                futures::executor::block_on(read);
            }
        }
    }
}
