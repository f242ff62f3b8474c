//! What has happened lately on this node, and who wants to hear of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use skein_state::{Compacted, Event, History};
use tokio::sync::watch;

/// The watch history, with a channel for each resource that somebody listens to: a write wakes only those whom it
/// concerns.
pub struct Recent {
    history: RwLock<History>,
    /// `None` when nothing will happen any more.
    topics: Mutex<Option<BTreeMap<String, watch::Sender<()>>>>,
}

/// Wakes when something has happened to one of its resources.
pub struct Topic(Vec<watch::Receiver<()>>);

/// Nothing will happen any more: the store has stopped.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the store has stopped")]
pub struct Ended;

// === impl Recent ===

impl Recent {
    pub(crate) fn starting_at(revision: u64) -> Self {
        Self { history: RwLock::new(History::starting_at(revision)), topics: Mutex::new(Some(BTreeMap::new())) }
    }

    /// Events of a resource after a revision, oldest first, at most `limit`.
    pub fn since(&self, resource: &str, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.history().since(resource, revision, limit)
    }

    /// Events of all resources after a revision, oldest first, at most `limit`.
    pub fn all_since(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.history().all_since(revision, limit)
    }

    pub fn subscribe(&self, resources: &[&str]) -> Topic {
        let mut topics = self.topics();
        let receive = |resource: &&str| match topics.as_mut() {
            Some(topics) => topics.entry((*resource).to_string()).or_insert_with(|| watch::channel(()).0).subscribe(),
            // Its sender is gone already.
            None => watch::channel(()).1,
        };
        Topic(resources.iter().map(receive).collect())
    }

    /// Adds events; returns the resources that they are of, who are told once the state is published.
    pub(crate) fn push(&self, events: Vec<Event>) -> Vec<String> {
        if events.is_empty() {
            return Vec::new();
        }
        let mut resources: Vec<String> = events.iter().map(|event| event.key.resource().to_string()).collect();
        resources.sort_unstable();
        resources.dedup();
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        events.into_iter().for_each(|event| history.push(event));
        resources
    }

    pub(crate) fn tell(&self, resources: &[String]) {
        let mut topics = self.topics();
        let Some(topics) = topics.as_mut() else { return };
        for resource in resources {
            if let Some(sender) = topics.get(resource)
                && sender.send(()).is_err()
            {
                topics.remove(resource);
            }
        }
    }

    /// What was before a revision is unknown from now on; everybody is told.
    pub(crate) fn restart_at(&self, revision: u64) {
        *self.history.write().unwrap_or_else(PoisonError::into_inner) = History::starting_at(revision);
    }

    pub(crate) fn tell_all(&self) {
        let all = self.topics().iter().flatten().map(|(resource, _)| resource.clone()).collect::<Vec<_>>();
        self.tell(&all);
    }

    pub(crate) fn end(&self) {
        *self.topics() = None;
    }

    fn history(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn topics(&self) -> MutexGuard<'_, Option<BTreeMap<String, watch::Sender<()>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Topic ===

impl Topic {
    /// What has happened until now is known.
    pub fn mark_unchanged(&mut self) {
        self.0.iter_mut().for_each(watch::Receiver::mark_unchanged);
    }

    pub async fn changed(&mut self) -> Result<(), Ended> {
        let changed = match self.0.as_mut_slice() {
            [] => std::future::pending().await,
            [one] => one.changed().await,
            several => {
                let all = several.iter_mut().map(|receiver| Box::pin(receiver.changed()));
                futures::future::select_all(all).await.0
            }
        };
        changed.map_err(|_| Ended)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skein_object::Key;

    use super::*;

    fn event(revision: u64, resource: &str) -> Event {
        Event { revision, key: Key::new(resource, "n", "x"), before: None, after: None }
    }

    async fn wakes(topic: &mut Topic) -> Option<Result<(), Ended>> {
        tokio::time::timeout(Duration::from_millis(20), topic.changed()).await.ok()
    }

    #[tokio::test]
    async fn only_those_wake_whom_it_concerns() {
        let recent = Recent::starting_at(0);
        let (mut pods, mut both) = (recent.subscribe(&["pods"]), recent.subscribe(&["services", "pods"]));
        let mut nodes = recent.subscribe(&["nodes"]);
        recent.tell(&recent.push(vec![event(1, "pods"), event(2, "pods")]));
        assert_eq!((wakes(&mut pods).await, wakes(&mut both).await, wakes(&mut nodes).await), (Some(Ok(())), Some(Ok(())), None));
        assert_eq!(wakes(&mut pods).await, None, "once");
        recent.tell(&recent.push(vec![event(3, "services")]));
        both.mark_unchanged();
        assert_eq!(wakes(&mut both).await, None);
        recent.tell_all();
        assert_eq!(wakes(&mut nodes).await, Some(Ok(())));
    }

    #[tokio::test]
    async fn the_end_is_told_to_all_and_to_those_who_come_later() {
        let recent = Recent::starting_at(0);
        let mut before = recent.subscribe(&["pods"]);
        recent.end();
        assert_eq!(wakes(&mut before).await, Some(Err(Ended)));
        assert_eq!(wakes(&mut recent.subscribe(&["pods"])).await, Some(Err(Ended)));
    }
}
