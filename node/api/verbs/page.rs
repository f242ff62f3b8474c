//! Which state a list is of: what there is now, what there was at one revision exactly, or what there was when the list's
//! first page was read. What was is what is, less what has happened since, so a page may be had from any node.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skein_object::{Key, Resource, Status};
use skein_state::State;
use skein_store::View;

use super::{at_least, parse_version, view};
use crate::Context;
use crate::route::Target;

/// etcd's compaction interval under kube-apiserver: clients count on at least this.
const LIFETIME_SECONDS: i64 = 300;

const VERSION: &str = "meta.k8s.io/v1";
const EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// What `continue` says: Kubernetes' fields, and when the list began.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Token {
    v: String,
    /// -1 for whatever there is by then.
    rv: i64,
    /// The last object before the page, without what all of the list have in common.
    start: String,
    at: i64,
}

/// Where a page begins, and in what.
pub(super) struct Page {
    pub(super) state: State,
    pub(super) revision: u64,
    /// The key before its first.
    pub(super) after: Option<String>,
    prefix: String,
    began: i64,
}

// === impl Page ===

impl Page {
    pub(super) async fn of(context: &Context, target: &Target) -> Result<Self, Status> {
        let prefix = Key::prefix(target.resource.stored(), &target.namespace);
        let now = Timestamp::now().as_second();
        let wanted = target.query.get("resourceVersion").filter(|version| *version != "0");
        if let Some(text) = target.query.get("continue") {
            let token = parse(text)?;
            if wanted.is_some() {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            return Self::next(context, target, (prefix, token), now).await;
        }
        let is_exact = match target.query.get("resourceVersionMatch") {
            Some(kind) => kind == "Exact",
            // What clients that are older than that parameter rely on.
            None => target.query.number("limit").is_some_and(|limit| limit > 0),
        };
        let view = view(context, target).await?;
        let (state, revision) = match wanted.filter(|_| is_exact).map(parse_version).transpose()? {
            Some(revision) => (was(context, &view, &target.resource, revision).ok_or_else(|| Status::expired(EXPIRED))?, revision),
            None => (view.state.clone(), view.state.revision()),
        };
        Ok(Self { state, revision, after: None, prefix, began: now })
    }

    /// The page that a token is for.
    async fn next(context: &Context, target: &Target, (prefix, token): (String, Token), now: i64) -> Result<Self, Status> {
        let after = Some(format!("{prefix}{}", token.start));
        let Ok(revision) = u64::try_from(token.rv) else {
            let view = view(context, target).await?;
            return Ok(Self { revision: view.state.revision(), state: view.state, after, prefix, began: now });
        };
        let view = at_least(context, revision).await?;
        let is_fresh = now - token.at < LIFETIME_SECONDS;
        match was(context, &view, &target.resource, revision).filter(|_| is_fresh) {
            Some(state) => Ok(Self { state, revision, after, prefix, began: token.at }),
            None => {
                let mut expired = Status::expired(INCONSISTENT);
                let inconsistent = Token { rv: -1, at: now, ..token };
                expired.metadata.insert("continue".into(), inconsistent.text().into());
                Err(expired)
            }
        }
    }

    /// What the client comes with for the page after this one.
    pub(super) fn token(&self, last: &Key) -> String {
        let start = last.as_str().strip_prefix(&self.prefix).unwrap_or_default().to_string();
        Token { v: VERSION.into(), rv: i64::try_from(self.revision).unwrap_or(i64::MAX), start, at: self.began }.text()
    }
}

// === impl Token ===

impl Token {
    fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

fn parse(text: &str) -> Result<Token, Status> {
    let malformed = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(": illegal base64 data".into()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|why| malformed(format!(": {why}")))?;
    match &token {
        Token { v, .. } if v != VERSION => Err(malformed(format!(": server does not recognize this encoded version {v}"))),
        Token { rv: 0, .. } => Err(malformed(format!(": incorrect encoded start resourceVersion (version {VERSION})"))),
        Token { start, .. } if start.is_empty() => Err(malformed(format!(": encoded start key empty (version {VERSION})"))),
        _ => Ok(token),
    }
}

/// What there was of a resource at a revision; `None` where what has happened since is not known any more.
fn was(context: &Context, view: &View, resource: &Resource, revision: u64) -> Option<State> {
    let now = view.state.revision();
    if revision == now {
        return Some(view.state.clone());
    }
    let events = context.store.events_since(resource.stored(), revision, usize::MAX).ok()?;
    Some(view.state.before(events.iter().map(AsRef::as_ref).filter(|event| event.revision <= now)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(token: &serde_json::Value, expected: &str) {
        let text = URL_SAFE_NO_PAD.encode(token.to_string());
        assert_eq!(parse(&text).map(|token| token.start).map_err(|status| status.message).unwrap_or_else(|why| why), expected);
    }

    #[test]
    fn a_token_says_where_to_go_on() {
        check(&json!({"v": VERSION, "rv": 7, "start": "default/a"}), "default/a");
        check(&json!({"v": VERSION, "rv": -1, "start": "default/a"}), "default/a");
        let wrong = "invalid continue token: continue key is not valid: ";
        check(&json!({"rv": 7, "start": "a"}), &format!("{wrong}server does not recognize this encoded version "));
        check(&json!({"v": VERSION, "start": "a"}), &format!("{wrong}incorrect encoded start resourceVersion (version {VERSION})"));
        check(&json!({"v": VERSION, "rv": 7}), &format!("{wrong}encoded start key empty (version {VERSION})"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_continue_token_is_refused(text in "\\PC{0,40}", version in "\\PC{0,20}", revision in any::<i64>(), start in "\\PC{0,12}") {
            let made = URL_SAFE_NO_PAD.encode(json!({"v": version, "rv": revision, "start": start}).to_string());
            for token in [&text, &made] {
                prop_assert_eq!(parse(token).map(drop).map_err(|status| status.code), Err(400));
            }
        }
    }
}
