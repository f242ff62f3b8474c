//! The audit log: who asked what of this node, in Kubernetes' words (`audit.k8s.io/v1`), as much of it as a policy says.
//!
//! ```text
//!   request ─▶ Policy::level (pure) ─▶ answered ─▶ event ─▶ queue ─▶ a thread ─▶ one line of JSON in a file
//! ```
//!
//! A disk that is slow or full holds up no request: what the queue cannot take is counted, and told in the daemon's log.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_object::Status;
use tracing::warn;

use crate::authenticate::User;
use crate::request_info::RequestInfo;
use crate::{Body, body, respond};

/// Events that wait for the disk.
const QUEUE: usize = 10_000;

/// An answer that is longer is not copied into an event.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// Where the log is, and what goes into it.
#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    /// None: metadata of everything.
    pub policy: Option<PathBuf>,
    /// Beyond this the file is renamed, and a new one begun.
    pub bytes_max: u64,
    /// Renamed files that are kept.
    pub files_max: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the audit log {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the audit policy {path} is not one: {why}")]
    Policy { path: PathBuf, why: String },
}

/// How much of a request is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// The first rule that fits a request says how much of it is kept; nothing, where none does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    kind: String,
    #[serde(default)]
    omit_stages: Vec<String>,
    rules: Vec<Rule>,
}

/// What is empty fits everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// A cheap clone.
#[derive(Clone)]
pub(crate) struct Log(Arc<Shared>);

struct Shared {
    policy: Policy,
    queue: SyncSender<Value>,
    lost: AtomicU64,
}

/// A request, and who asks.
pub(crate) struct Asked<'a> {
    /// Whose certificate or token it is; an error where it is nobody's.
    pub(crate) asker: &'a Result<User, Status>,
    /// Whom that one acts for: most often itself.
    pub(crate) user: &'a Result<User, Status>,
    pub(crate) from: IpAddr,
    pub(crate) head: &'a Parts,
    pub(crate) info: RequestInfo<'a>,
    pub(crate) body: &'a Bytes,
}

/// A request whose answer is waited for.
pub(crate) struct Pending {
    log: Log,
    level: Level,
    stages: Vec<&'static str>,
    /// Its answer goes on for as long as the client likes: a watch, a log that is followed.
    is_long: bool,
    event: Value,
}

/// Tells of the end of an answer when the last of it has gone, or the client has.
struct Ending(Pending);

const RECEIVED: &str = "RequestReceived";
const STARTED: &str = "ResponseStarted";
const COMPLETE: &str = "ResponseComplete";

// === impl Policy ===

impl Policy {
    fn everything() -> Self {
        let rule = json!({"level": "Metadata"});
        serde_json::from_value(json!({"kind": "Policy", "omitStages": [RECEIVED], "rules": [rule]})).expect("this is a policy")
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let failed = |why: String| Error::Policy { path: path.into(), why };
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.into(), source })?;
        let policy: Self = serde_yaml_ng::from_str(&text).map_err(|why| failed(why.to_string()))?;
        if policy.kind != "Policy" { Err(failed(format!("its kind is {:?}, not Policy", policy.kind))) } else { Ok(policy) }
    }

    /// How much is kept of a request, and at which of its stages.
    fn level(&self, user: &User, info: &RequestInfo<'_>) -> (Level, Vec<&'static str>) {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, info)) else { return (Level::None, Vec::new()) };
        let is_kept = |stage: &&'static str| !self.omit_stages.iter().chain(&rule.omit_stages).any(|omitted| omitted == stage);
        (rule.level, [RECEIVED, STARTED, COMPLETE].into_iter().filter(is_kept).collect())
    }
}

// === impl Rule ===

impl Rule {
    fn fits(&self, user: &User, info: &RequestInfo<'_>) -> bool {
        let one = |list: &[String], text: &str| list.is_empty() || list.iter().any(|item| item == text);
        one(&self.users, &user.name)
            && (self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group)))
            && one(&self.verbs, info.verb)
            && self.fits_place(info)
    }

    fn fits_place(&self, info: &RequestInfo<'_>) -> bool {
        if self.resources.is_empty() && self.namespaces.is_empty() && self.non_resource_urls.is_empty() {
            return true;
        }
        if info.resource.is_empty() {
            let fits = |url: &String| url.strip_suffix('*').map_or(url == info.path, |prefix| info.path.starts_with(prefix));
            return self.non_resource_urls.iter().any(fits);
        }
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|namespace| namespace == info.namespace) {
            return false;
        }
        if self.resources.is_empty() {
            return self.non_resource_urls.is_empty();
        }
        self.resources.iter().any(|resources| resources.fits(info))
    }
}

// === impl Resources ===

impl Resources {
    fn fits(&self, info: &RequestInfo<'_>) -> bool {
        let full = info.full_resource();
        let fits = |wanted: &String| {
            let any_of = wanted
                .strip_suffix("/*")
                .is_some_and(|resource| resource == info.resource || full.starts_with(wanted.trim_end_matches('*')));
            let of_any = wanted.strip_prefix("*/").is_some_and(|subresource| subresource == info.subresource);
            *wanted == *full || wanted == "*" || any_of || of_any
        };
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == info.name);
        self.group == info.group && named && (self.resources.is_empty() || self.resources.iter().any(fits))
    }
}

// === impl Log ===

impl Log {
    /// Opens the file and starts the thread that writes it.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let policy = options.policy.as_deref().map_or_else(|| Ok(Policy::everything()), Policy::read)?;
        let failed = |source| Error::File { path: options.path.clone(), source };
        let writer = Writer::open(options.clone()).map_err(failed)?;
        let (queue, events) = sync_channel(QUEUE);
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&events)).map_err(failed)?;
        Ok(Self(Arc::new(Shared { policy, queue, lost: AtomicU64::new(0) })))
    }

    /// A request has come; `None` where nothing is kept of it.
    pub(crate) fn received(&self, asked: Asked<'_>) -> Option<Pending> {
        let Asked { asker, user, from, head, info, body } = asked;
        let nobody = User::default();
        let asker = asker.as_ref().unwrap_or(&nobody);
        let (level, stages) = self.0.policy.level(asker, &info);
        if level == Level::None {
            return None;
        }
        let now = time();
        let agent = head.headers.get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{level:?}"), "auditID": uuid::Uuid::new_v4().to_string(),
            "stage": RECEIVED, "requestURI": head.uri.to_string(), "verb": info.verb, "user": asker.info(), "sourceIPs": [from.to_string()],
            "userAgent": agent, "requestReceivedTimestamp": now, "stageTimestamp": now,
        });
        if let Ok(user) = user
            && user != asker
        {
            event["impersonatedUser"] = user.info();
        }
        if !info.resource.is_empty() {
            let parts = [
                ("resource", info.resource),
                ("namespace", info.namespace),
                ("name", info.name),
                ("apiGroup", info.group),
                ("apiVersion", info.version),
                ("subresource", info.subresource),
            ];
            let parts = parts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(field, text)| (field.to_string(), text.into()));
            event["objectRef"] = Value::Object(parts.collect());
        }
        if stages.contains(&RECEIVED) {
            self.write(event.clone());
        }
        if level >= Level::Request && !body.is_empty() {
            // A patch is no object by its content type: it is JSON or YAML, so YAML.
            let object = body::decode(&head.headers, body).ok().or_else(|| serde_yaml_ng::from_slice(body).ok());
            event["requestObject"] = object.unwrap_or_default();
        }
        let is_long = info.verb == "watch" || info.is_stream();
        Some(Pending { log: self.clone(), level, stages, is_long, event })
    }

    fn write(&self, event: Value) {
        if self.0.queue.try_send(event).is_err() {
            let lost = self.0.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                warn!(lost, "the audit log cannot keep up: events are lost");
            }
        }
    }
}

// === impl Pending ===

impl Pending {
    /// The answer, with the event's id. The event is on its way to the file before the client sees the answer; that of one
    /// that goes on when it begins, and again when it has ended.
    pub(crate) async fn answered(mut self, answer: Result<Response<Body>, Status>) -> Result<Response<Body>, Status> {
        let id = self.event["auditID"].as_str().unwrap_or_default().to_string();
        let mut response = answer.unwrap_or_else(|status| respond::status(&status));
        let code = response.status().as_u16();
        self.event["responseStatus"] = json!({"metadata": {}, "code": code});
        let is_whole = response.body().size_hint().exact().is_some_and(|bytes| bytes <= OBJECT_BYTES_MAX);
        if self.level == Level::RequestResponse && is_whole {
            let (head, body) = response.into_parts();
            let content = body.collect().await.map_err(Status::internal)?.to_bytes();
            let object = serde_json::from_slice(&content).ok().or_else(|| skein_protobuf::to_json(&content).ok());
            if let Some(object) = object {
                self.event["responseObject"] = object;
            }
            response = Response::from_parts(head, respond::full(content));
        }
        if self.is_long {
            self.tell(STARTED);
            let ending = Ending(self);
            response = response.map(|body| {
                let held = move |frame| {
                    let _until_the_body_goes = &ending;
                    frame
                };
                body.map_frame(held).boxed()
            });
        } else {
            self.tell(COMPLETE);
        }
        if let Ok(id) = id.parse() {
            response.headers_mut().insert("audit-id", id);
        }
        Ok(response)
    }

    fn tell(&mut self, stage: &'static str) {
        if self.stages.contains(&stage) {
            self.event["stage"] = stage.into();
            self.event["stageTimestamp"] = time().into();
            self.log.write(self.event.clone());
        }
    }
}

// === impl Ending ===

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.tell(COMPLETE);
    }
}

/// RFC 3339 with microseconds.
fn time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The file, and how much of it is full.
struct Writer {
    options: Options,
    file: BufWriter<File>,
    bytes: u64,
}

// === impl Writer ===

impl Writer {
    fn open(options: Options) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(&options.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { options, file: BufWriter::new(file), bytes })
    }

    /// Writes until nobody is left who could log; flushes whenever nothing waits.
    fn run(mut self, events: &Receiver<Value>) {
        while let Ok(first) = events.recv() {
            let written = std::iter::once(first).chain(events.try_iter()).try_for_each(|event| self.line(&event.to_string()));
            if let Err(why) = written.and_then(|()| self.file.flush()) {
                warn!(path = %self.options.path.display(), %why, "the audit log cannot be written");
            }
        }
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.options.bytes_max {
            self.rotate()?;
        }
        self.bytes += text.len() as u64 + 1;
        writeln!(self.file, "{text}")
    }

    /// `audit.log` becomes `audit.log.1`, that `audit.log.2`, and so on.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let path = |index: usize| match index {
            0 => self.options.path.clone(),
            index => PathBuf::from(format!("{}.{index}", self.options.path.display())),
        };
        for index in (0..self.options.files_max).rev() {
            if path(index).exists() {
                std::fs::rename(path(index), path(index + 1))?;
            }
        }
        let fresh = Self::open(self.options.clone())?;
        (self.file, self.bytes) = (fresh.file, fresh.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let text = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [\"system:kube-proxy\"], verbs: [watch]}
- {level: None, nonResourceURLs: [\"/healthz*\", /version]}
- {level: Metadata, resources: [{group: \"\", resources: [secrets, configmaps]}]}
- {level: Request, resources: [{group: \"\", resources: [\"pods/*\"]}], namespaces: [kube-system]}
- {level: RequestResponse, resources: [{group: apps}]}
- {level: Metadata, userGroups: [devs]}
";
        serde_yaml_ng::from_str(text).expect("a policy")
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let check = |method: &str, uri: &str, user: &str, group: &str, expected: Level| {
            let user = User { name: user.into(), groups: vec![group.into()], ..User::default() };
            let method: http::Method = method.parse().expect("a method");
            let parsed = uri.parse().expect("a path");
            let info = RequestInfo::of(&method, &parsed);
            assert_eq!(policy().level(&user, &info).0, expected, "{method} {uri}");
        };
        check("GET", "/api/v1/secrets?watch=1", "system:kube-proxy", "", Level::None);
        check("GET", "/healthz/ping", "ada", "", Level::None);
        check("GET", "/api/v1/namespaces/n/secrets/s", "ada", "", Level::Metadata);
        check("POST", "/api/v1/namespaces/kube-system/pods/p/exec", "ada", "", Level::Request);
        check("POST", "/api/v1/namespaces/n/pods/p/exec", "ada", "", Level::None);
        check("PUT", "/apis/apps/v1/namespaces/n/deployments/d", "ada", "", Level::RequestResponse);
        check("GET", "/api/v1/nodes", "ada", "devs", Level::Metadata);
        check("GET", "/api/v1/nodes", "ada", "others", Level::None);
    }

    #[test]
    fn files_are_turned_over_and_the_oldest_go() {
        let directory = std::env::temp_dir().join(format!("skein-audit-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("audit.log");
        let options = Options { path: path.clone(), policy: None, bytes_max: 100, files_max: 2 };
        let mut writer = Writer::open(options).expect("it opens");
        (0..30).for_each(|index| writer.line(&format!("{index:020}")).expect("it is written"));
        writer.file.flush().expect("it is flushed");
        let lines = |name: &str| std::fs::read_to_string(directory.join(name)).map(|text| text.lines().count()).unwrap_or(0);
        assert_eq!((lines("audit.log.1"), lines("audit.log.2"), lines("audit.log.3")), (4, 4, 0));
        assert!(lines("audit.log") > 0);
        std::fs::remove_dir_all(directory).expect("it can be removed");
    }
}
