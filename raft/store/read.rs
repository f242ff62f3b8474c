//! Consistent reads: one read index for all that ask at the same time.

use tokio::sync::{mpsc, oneshot};

use crate::{Error, Handle};

/// Readers that may wait for one round. Beyond it the caller waits in its own task.
const READERS_MAX: usize = 65_536;

pub(crate) type Reader = oneshot::Sender<Result<u64, Error>>;

pub(crate) fn channel() -> (mpsc::Sender<Reader>, mpsc::Receiver<Reader>) {
    mpsc::channel(READERS_MAX)
}

/// Takes all readers that wait, asks once, answers all. Who comes meanwhile is in the next round: an index asked for
/// before it came would be too old.
pub(crate) async fn batch_loop(handle: Handle, mut requests: mpsc::Receiver<Reader>) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, READERS_MAX).await > 0 {
        let index = handle.read_index().await;
        for reader in batch.drain(..) {
            let answer = index.as_ref().map(|index| *index).map_err(Error::shared);
            let _ = reader.send(answer);
        }
    }
}
