//! The leader's work: while this node leads, watch the state, run the scheduler and the controllers, propose what they
//! decide. It stops when leadership is lost, and every transaction carries the term, so that what is under way then is
//! refused.
//!
//! ```text
//!   View ─▶ events since ─▶ Snapshot, Fleet ─▶ queue ─▶ place / reconcile ─▶ transactions ─▶ propose ─┐
//!     ▲                                                                                               │
//!     └───────────────────────────────────────── applied ◀────────────────────────────────────────────┘
//! ```

mod adapters;
mod alarms;
mod lease;
mod liveness;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skein_object::{Key, Record};
use skein_store::Handle;
use tokio::sync::Notify;

pub use lease::{Granted, granted};
pub use liveness::{Log, Reports};

/// Asked before a controller's new object is proposed, as the API asks before a client's.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// What is stored instead, if it is not what it was; `Err` says why it may not be.
    async fn admit(&self, user: &str, key: &Key, record: &Record) -> Result<Option<Record>, String>;
}

/// Asks servers behind the aggregation layer.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// What the server of the first of a group's versions that there is answers to a GET of a path below it.
    async fn get(&self, user: &str, (group, versions): (&str, &[&str]), path: &str) -> Result<Value, String>;
}

/// Leads whenever this node is elected; returns when the store stops.
pub async fn run(store: Handle, reports: Reports, admission: Arc<dyn Admission>, servers: Arc<dyn Servers>) {
    loop {
        let mut term = None;
        store
            .watch_leadership(|now| {
                term = now.is_self.then_some(now.term);
                term.is_none()
            })
            .await;
        let Some(term) = term else { return };
        tracing::info!(term, "leading");
        reports.begin();
        let lost = Arc::new(Notify::new());
        let end = Arc::clone(&lost);
        let watcher = store.clone();
        let watching = skein_log::spawn(async move {
            watcher.watch_leadership(|now| now.is_self && now.term == term).await;
            end.notify_one();
        });
        tokio::select! {
            () = session::lead(&store, term, &reports, (&*admission, &servers)) => {}
            () = lost.notified() => {}
        }
        watching.abort();
        tracing::info!(term, "no longer leading");
    }
}
