//! Where a backup lies: in a file, or in S3-compatible storage (`s3://BUCKET/KEY`).
//!
//! The storage and who asks it are named as for Amazon's own tools: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` (Amazon
//! itself where neither is set), `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
//! Requests are signed in their URLs (Signature Version 4). An object is there whole or not at all.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Response};
use rusty_s3::actions::S3Action;
use rusty_s3::{Bucket, Credentials, UrlStyle};

/// How long a signed URL is good for; an upload that has begun may take longer.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Storage that takes or gives nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// What S3 takes in one request.
const OBJECT_BYTES_MAX: u64 = 5 << 30;
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
        if length > OBJECT_BYTES_MAX {
            bail!("the backup has {length} bytes, and S3 takes {OBJECT_BYTES_MAX} at once: write it to a file");
        }
        let url = self.bucket.put_object(Some(&self.credentials), &self.key).sign(SIGNED_FOR);
        accepted(self.client.put(url).header("content-length", length).body(file).send().await?).await.map(drop)
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

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// An answer that is a success; of another one, what the storage says.
async fn accepted(answer: Response) -> Result<Response> {
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    let of = |tag: &str| text.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>")).map(|(inside, _)| inside);
    let said = of("Code").map(|code| format!("{code}: {}", of("Message").unwrap_or_default()));
    bail!("the storage answers {code}: {}", said.unwrap_or(text).chars().take(WHY_CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

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
