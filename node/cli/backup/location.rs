//! Where a backup lies: in a file, or in S3-compatible storage (`s3://BUCKET/KEY`).
//!
//! The storage and who asks it are named as for Amazon's own tools: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` (Amazon
//! itself where neither is set), `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
//! Requests are signed in their URLs (Signature Version 4). What is large is sent in parts; an object is there whole or not
//! at all.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Client, Response};
use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload, S3Action};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use tokio::io::AsyncReadExt;

/// How long a signed URL is good for; an upload that has begun may take longer.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Storage that takes or gives nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// What is sent at once, as by Amazon's own tools, and how many parts S3 takes at the most.
const PART_BYTES: u64 = 8 << 20;
const PARTS_MAX: u64 = 10_000;
/// How often a part is sent until all is given up.
const ATTEMPTS: usize = 3;
/// Of an error's text.
const WHY_CHARS_MAX: usize = 300;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Location {
    File(PathBuf),
    Object { bucket: String, key: String },
}

/// An object in storage, and the way to it.
pub(super) struct Object {
    client: Client,
    bucket: Bucket,
    credentials: Credentials,
    key: String,
}

// === impl Location ===

impl FromStr for Location {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix("s3://") else { return Ok(Self::File(text.into())) };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // Such a key would be another one in a URL.
        let is_path = key.split('/').any(|part| matches!(part, "" | "." | ".."));
        if bucket.is_empty() || is_path {
            bail!("an object is named s3://BUCKET/KEY, and no part of a key is empty, '.' or '..'");
        }
        Ok(Self::Object { bucket: bucket.into(), key: key.into() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Object { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

// === impl Object ===

impl Object {
    pub(super) fn of(bucket: &str, key: &str) -> Result<Self> {
        // The program may have no other use for TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
        let endpoint = set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"));
        // Other storage need not answer to a name for each bucket.
        let style = if endpoint.is_some() { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let url = endpoint.parse().with_context(|| format!("{endpoint:?} is no URL"))?;
        let bucket = Bucket::new(url, style, bucket.to_string(), region).with_context(|| format!("{endpoint:?} is no endpoint"))?;
        let credentials = Credentials::from_env().context("S3 storage asks who writes: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")?;
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build()?;
        Ok(Self { client, bucket, credentials, key: key.into() })
    }

    /// Writes what is in a file, in place of what was there.
    pub(super) async fn put(&self, file: &Path) -> Result<()> {
        let file = tokio::fs::File::open(file).await?;
        let length = file.metadata().await?.len();
        if length <= PART_BYTES {
            let url = self.bucket.put_object(Some(&self.credentials), &self.key).sign(SIGNED_FOR);
            return accepted(self.client.put(url).header("content-length", length).body(file).send().await?).await.map(drop);
        }
        let url = self.bucket.create_multipart_upload(Some(&self.credentials), &self.key).sign(SIGNED_FOR);
        let begun = accepted(self.client.post(url).send().await?).await?.text().await?;
        let upload = CreateMultipartUpload::parse_response(&begun).context("the storage does not say how it calls the upload")?;
        let put = self.put_parts(upload.upload_id(), file, length).await;
        if put.is_err() {
            // Parts of what will never be whole are kept, and paid for, until they are told to go.
            let url = self.bucket.abort_multipart_upload(Some(&self.credentials), &self.key, upload.upload_id()).sign(SIGNED_FOR);
            let _ = self.client.delete(url).send().await;
        }
        put
    }

    async fn put_parts(&self, upload: &str, mut file: tokio::fs::File, length: u64) -> Result<()> {
        let mut tags = Vec::new();
        for number in 1.. {
            let mut part = Vec::new();
            (&mut file).take(part_bytes(length)).read_to_end(&mut part).await?;
            if part.is_empty() {
                break;
            }
            tags.push(self.put_part(upload, number, part).await.with_context(|| format!("part {number} of the backup"))?);
        }
        let complete = self.bucket.complete_multipart_upload(Some(&self.credentials), &self.key, upload, tags.iter().map(String::as_str));
        let url = complete.sign(SIGNED_FOR);
        let answer = accepted(self.client.post(url).body(complete.body()).send().await?).await?.text().await?;
        // It is said to be a success before it is known.
        CompleteMultipartUploadResponse::parse(&answer).map(drop).map_err(|_| anyhow!("the storage answers: {}", said(&answer)))
    }

    /// Sends one part; by what the storage knows it.
    async fn put_part(&self, upload: &str, number: u16, part: Vec<u8>) -> Result<String> {
        let mut attempt = 1;
        loop {
            let url = self.bucket.upload_part(Some(&self.credentials), &self.key, number, upload).sign(SIGNED_FOR);
            let sent = async { accepted(self.client.put(url).body(part.clone()).send().await?).await };
            match sent.await {
                Ok(answer) => {
                    let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
                    return tag.map(String::from).context("the storage does not say how it calls it");
                }
                Err(why) if attempt == ATTEMPTS => return Err(why),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Reads it into a file that has no name.
    pub(super) async fn get(&self) -> Result<File> {
        let url = self.bucket.get_object(Some(&self.credentials), &self.key).sign(SIGNED_FOR);
        let mut answer = accepted(self.client.get(url).send().await?).await?;
        let mut file = tempfile::tempfile()?;
        while let Some(bytes) = answer.chunk().await? {
            file.write_all(&bytes)?;
        }
        file.rewind()?;
        Ok(file)
    }
}

/// Each part is as large as it must be, so that there are not too many.
fn part_bytes(length: u64) -> u64 {
    PART_BYTES.max(length.div_ceil(PARTS_MAX))
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// An answer that is a success; of another one, what the storage says.
async fn accepted(answer: Response) -> Result<Response> {
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    bail!("the storage answers {code}: {}", said(&answer.text().await.unwrap_or_default()))
}

/// The words of an error.
fn said(text: &str) -> String {
    let of = |tag: &str| text.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>")).map(|(inside, _)| inside);
    let said = of("Code").map(|code| format!("{code}: {}", of("Message").unwrap_or_default()));
    said.as_deref().unwrap_or(text).chars().take(WHY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_not_too_many_parts() {
        assert_eq!(part_bytes(PART_BYTES + 1), PART_BYTES);
        assert_eq!(part_bytes(PART_BYTES * PARTS_MAX), PART_BYTES);
        let large: u64 = 5 << 40;
        assert!(large.div_ceil(part_bytes(large)) <= PARTS_MAX);
    }

    #[test]
    fn a_location_is_a_file_or_an_object() {
        let check = |text: &str, expected: Option<Location>| assert_eq!(text.parse::<Location>().ok(), expected, "{text}");
        let object = |bucket: &str, key: &str| Some(Location::Object { bucket: bucket.into(), key: key.into() });
        check("/var/backups/a", Some(Location::File("/var/backups/a".into())));
        check("s3:a", Some(Location::File("s3:a".into())));
        check("s3://bucket/a", object("bucket", "a"));
        check("s3://bucket/nightly/a b", object("bucket", "nightly/a b"));
        for text in ["s3://", "s3://bucket", "s3://bucket/", "s3:///a", "s3://bucket/a/../../other/b", "s3://bucket//a", "s3://bucket/./a"]
        {
            check(text, None);
        }
    }
}
