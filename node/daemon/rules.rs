//! Brings a table of nftables to what is wanted, off the threads that serve.

use std::time::Duration;

use skein_nft::{Parts, Table};
use tracing::warn;

/// After nft has refused; what is wrong is told once a while.
const RETRY: Duration = Duration::from_secs(5);

/// The table and whether it holds now; where it does not, `complaint` is logged and the wait is over. `None` when the
/// daemon ends.
pub(crate) async fn apply(mut table: Table, wanted: impl Into<Parts>, complaint: &'static str) -> Option<(Table, bool)> {
    let wanted = wanted.into();
    let applied = tokio::task::spawn_blocking(move || {
        let result = table.apply(wanted);
        (table, result)
    });
    let (table, result) = applied.await.ok()?;
    if let Err(why) = &result {
        warn!(%why, "{complaint}");
        tokio::time::sleep(RETRY).await;
    }
    Some((table, result.is_ok()))
}
