//! Leadership leaves a node whose disk does not keep up with the others'.

use std::time::Duration;

use skein_store::Handle;
use tracing::{info, warn};

use crate::told;

/// After a handover, before the next: whoever leads then is given time to show how it does.
const PAUSE: Duration = Duration::from_secs(10);

pub(crate) async fn run(store: Handle, node: String) {
    loop {
        store.until_slow().await;
        match store.hand_over().await {
            Some(successor) => {
                info!(%successor, "this node's disk is slower than the majority's and leads no more");
                let why = format!("{node}'s disk was more than 500 ms behind the majority's for 2 s: {successor} leads instead");
                told::about_node(&store, &successor, "LeaderMoved", &why).await;
            }
            None => warn!("this node's disk is slower than the majority's, and nobody takes the lead"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
