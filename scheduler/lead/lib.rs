//! The leader's work: while this node leads, watch the state, run the scheduler and the controllers, propose what they
//! decide. It stops when leadership is lost, and every transaction carries the term, so that what is under way then is
//! refused.
//!
//! ```text
//!   View ─▶ events since ─▶ Snapshot, Fleet ─▶ queue ─▶ place / reconcile ─▶ transactions ─▶ propose ─┐
//!     ▲                                                                                               │
//!     └───────────────────────────────────────── applied ◀────────────────────────────────────────────┘
//! ```

mod alarms;
mod liveness;
mod session;

use std::sync::Arc;

use skein_store::Handle;
use tokio::sync::Notify;

pub use liveness::Reports;

/// Leads whenever this node is elected; returns when the store stops.
pub async fn run(store: Handle, reports: Reports) {
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
        let watching = tokio::spawn(async move {
            watcher.watch_leadership(|now| now.is_self && now.term == term).await;
            end.notify_one();
        });
        tokio::select! {
            () = session::lead(&store, term, &reports) => {}
            () = lost.notified() => {}
        }
        watching.abort();
        tracing::info!(term, "no longer leading");
    }
}
