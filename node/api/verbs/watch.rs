//! WATCH: the events of a resource from a revision on, as a stream of documents.
//!
//! A watcher is a cursor into the node's history. It wakes when something has happened to its resource, reads a batch,
//! writes it to its client and comes back; while the client is slow the cursor waits, and once the history has moved past
//! it the watch ends with 410.

pub(crate) mod encoded;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use skein_object::{Key, Resource, Status};
use skein_state::{Entry, Event};
use skein_store::Topic;
use tokio::time::Instant;

use super::list::Filter;
use super::options;
use super::{at_least, parse_version, view};
use crate::negotiate::{Form, Media};
use crate::route::Target;
use crate::{Body, Context, convert, status};

/// Events that a watcher takes from the history at once.
const BATCH: usize = 256;
/// How often an idle watch with bookmarks is told the revision.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(10);
/// Without a timeout from the client: kube-apiserver's minimum, 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watcher sees of an event: how its selection has changed, and the object.
type Seen = (&'static str, Key, Entry);

struct Watcher {
    context: Context,
    changes: Topic,
    resource: Arc<Resource>,
    prefix: String,
    filter: Filter,
    form: Form,
    media: Media,
    bookmarks: bool,
    /// Everything up to this revision has been written.
    cursor: u64,
    deadline: Instant,
    next_bookmark: Instant,
    /// What is written before any event: the objects that there are.
    initial: Option<Bytes>,
    ended: bool,
}

pub(super) async fn serve(context: &Context, target: &Target) -> Result<Response<Body>, Status> {
    let filter = Filter::of(target)?;
    options::of_watch(&target.query)?;
    let (form, media) = (target.form, target.media);
    let bookmarks = target.query.flag("allowWatchBookmarks");
    let initial_events = target.query.flag("sendInitialEvents");
    let (cursor, initial) = match target.query.get("resourceVersion") {
        Some(text) if text != "0" && !initial_events => {
            let revision = parse_version(text).map_err(|status| Status::failure(500, "", status.message))?;
            at_least(context, revision).await?;
            (revision, None)
        }
        version => {
            let view = match version {
                Some(text) if text != "0" => at_least(context, parse_version(text)?).await?,
                _ => view(context, target).await?,
            };
            let prefix = Key::prefix(target.resource.stored(), &target.namespace);
            let all = filter.choose(context, &view.state, &target.resource, view.state.range(&prefix, None)).await?;
            let all: Vec<Seen> = all.into_iter().map(|(key, entry)| ("ADDED", key.clone(), entry.clone())).collect();
            let mut out = encode(context, &target.resource, (form, media), &all).await?.concat();
            let revision = view.state.revision();
            if initial_events && bookmarks {
                let annotations = json!({"annotations": {INITIAL_EVENTS_END: "true"}});
                out.extend(media.event(line("BOOKMARK", &bookmark(&target.resource, form, revision, &annotations)))?);
            }
            (revision, Some(Bytes::from(out)))
        }
    };
    let seconds = target.query.number("timeoutSeconds").and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    let now = Instant::now();
    let watcher = Watcher {
        changes: context.store.subscribe(&[target.resource.stored()]),
        context: context.clone(),
        resource: Arc::clone(&target.resource),
        prefix: Key::prefix(target.resource.stored(), &target.namespace),
        filter,
        form,
        media,
        bookmarks,
        cursor,
        deadline: now + seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        next_bookmark: now + BOOKMARK_INTERVAL,
        initial,
        ended: false,
    };
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok(Frame::data(bytes)), watcher))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media.of_watch()));
    Ok(response)
}

// === impl Watcher ===

impl Watcher {
    /// The next bytes for the client; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(initial) = self.initial.take()
            && !initial.is_empty()
        {
            return Some(initial);
        }
        while !self.ended {
            self.changes.mark_unchanged();
            let revision = self.context.store.revision();
            match self.context.store.events_since(self.resource.stored(), self.cursor, BATCH) {
                Err(compacted) => return Some(self.fail(&status::of_compaction(compacted))),
                Ok(events) if !events.is_empty() => {
                    let out = match self.written(&events).await {
                        Ok(out) => out,
                        Err(status) => return Some(self.fail(&status)),
                    };
                    self.cursor = events.last().map_or(self.cursor, |event| event.revision);
                    if !out.is_empty() {
                        return Some(out);
                    }
                    continue;
                }
                // The history was read after the view: all up to the view's revision has been seen.
                Ok(_) => self.cursor = self.cursor.max(revision),
            }
            if let Some(bookmark) = self.due_bookmark() {
                return Some(bookmark);
            }
            let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            let gone = tokio::time::timeout_at(wake, self.changes.changed()).await;
            self.ended = matches!(gone, Ok(Err(_))) || Instant::now() >= self.deadline;
        }
        None
    }

    fn due_bookmark(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        if !self.bookmarks || now < self.next_bookmark {
            return None;
        }
        self.next_bookmark = now + BOOKMARK_INTERVAL;
        let line = line("BOOKMARK", &bookmark(&self.resource, self.form, self.cursor, &json!({})));
        match self.media.event(line) {
            Ok(bookmark) => Some(bookmark),
            Err(status) => Some(self.fail(&status)),
        }
    }

    /// The last that the client hears.
    fn fail(&mut self, status: &Status) -> Bytes {
        self.ended = true;
        let line = line("ERROR", &serde_json::to_value(status).unwrap_or_default());
        self.media.event(line).unwrap_or_default()
    }

    /// What the client is told of events, in one piece.
    async fn written(&self, events: &[Arc<Event>]) -> Result<Bytes, Status> {
        let mut seen: Vec<Seen> = Vec::with_capacity(events.len());
        for event in events.iter().filter(|event| event.key.as_str().starts_with(&self.prefix)) {
            let (before, after) = if self.filter.is_of_version(&self.resource) {
                (self.chosen(&event.key, event.before.as_ref()).await?, self.chosen(&event.key, event.after.as_ref()).await?)
            } else {
                let matches = |entry: &&Entry| self.filter.matches(&self.resource, entry);
                (event.before.as_ref().filter(matches), event.after.as_ref().filter(matches))
            };
            seen.extend(self::seen(event, before, after));
        }
        let key = |seen: &Seen| encoded::Key::of(seen.2.revision, seen.0, &self.resource, (self.form, self.media));
        let mut lines: Vec<Option<Bytes>> = seen.iter().map(|one| self.context.encoded.get(&key(one)?)).collect();
        let missing: Vec<usize> = (0..seen.len()).filter(|at| lines[*at].is_none()).collect();
        let fresh = if missing.is_empty() {
            Vec::new()
        } else {
            let unknown: Vec<Seen> = missing.iter().map(|at| seen[*at].clone()).collect();
            encode(&self.context, &self.resource, (self.form, self.media), &unknown).await?
        };
        for (at, line) in missing.into_iter().zip(fresh) {
            if let Some(key) = key(&seen[at]) {
                self.context.encoded.put(key, &line);
            }
            lines[at] = Some(line);
        }
        Ok(match lines.as_slice() {
            [Some(one)] => one.clone(),
            _ => lines.into_iter().flatten().collect::<Vec<_>>().concat().into(),
        })
    }

    /// An object, if it is selected as the version that is watched has it.
    async fn chosen<'a>(&self, key: &'a Key, entry: Option<&'a Entry>) -> Result<Option<&'a Entry>, Status> {
        let state = self.context.store.local().state;
        let candidates = entry.into_iter().map(|entry| (key, entry));
        let chosen = self.filter.choose(&self.context, &state, &self.resource, candidates).await?;
        Ok(chosen.into_iter().next().map(|(_, entry)| entry))
    }
}

/// An object that enters the selection is ADDED, one that leaves it is DELETED, whatever happened to it.
fn seen(event: &Event, before: Option<&Entry>, after: Option<&Entry>) -> Option<Seen> {
    let (kind, entry) = match (before, after) {
        (None, Some(after)) => ("ADDED", after),
        (Some(_), Some(after)) => ("MODIFIED", after),
        (Some(before), None) => ("DELETED", before),
        (None, None) => return None,
    };
    // A deletion carries the object as it last was, at the revision of its end.
    Some((kind, event.key.clone(), Entry { revision: event.revision, ..entry.clone() }))
}

/// Events as the client takes them: made here, and nowhere else.
async fn encode(context: &Context, resource: &Resource, (form, media): (Form, Media), seen: &[Seen]) -> Result<Vec<Bytes>, Status> {
    let begin = std::time::Instant::now();
    let is_as_stored = form == Form::Object && resource.is_shown_as_stored();
    let lines: Vec<Bytes> = if is_as_stored {
        let version = resource.api_version();
        let as_stored = |(event, _, entry): &Seen| framed(event, &entry.record.to_json(&version, resource.kind, entry.revision));
        seen.iter().map(as_stored).collect()
    } else {
        let entries: Vec<(&Key, &Entry)> = seen.iter().map(|(_, key, entry)| (key, entry)).collect();
        let objects = convert::shown(context, &context.store.local().state, resource, &entries).await?;
        let rendered = objects.into_iter().map(|object| form.render(resource, object).to_string());
        seen.iter().zip(rendered).map(|((event, ..), object)| framed(event, object.as_bytes())).collect()
    };
    let encoded = lines.into_iter().map(|line| media.event(line)).collect();
    if !is_as_stored || media != Media::Json {
        context.metrics.encoded(media, seen.len(), begin);
    }
    encoded
}

fn line(event: &str, object: &Value) -> Bytes {
    framed(event, object.to_string().as_bytes())
}

fn framed(event: &str, object: &[u8]) -> Bytes {
    [b"{\"type\":\"", event.as_bytes(), b"\",\"object\":", object, b"}\n"].concat().into()
}

fn bookmark(resource: &Resource, form: Form, revision: u64, extra: &Value) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if let (Some(metadata), Some(extra)) = (metadata.as_object_mut(), extra.as_object()) {
        metadata.extend(extra.clone());
    }
    match form {
        Form::Table(_) => crate::respond::table(resource, Vec::new(), skein_object::table::Include::None, metadata),
        Form::Object | Form::Metadata => json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata}),
    }
}
