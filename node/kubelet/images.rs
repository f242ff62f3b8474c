//! Images: present or pulled, by the container's policy.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use skein_cri::{AuthConfig, PodSandboxConfig};

use crate::Error;
use crate::cri::Runtime;
use crate::status::Waiting;

/// Between two attempts to pull an image that could not be pulled: 10 s, doubled up to 5 minutes.
const BACK_OFF_MIN: Duration = Duration::from_secs(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// Which images failed lately. Shared by all workers.
#[derive(Default)]
pub(crate) struct Pulls {
    failed: Mutex<HashMap<String, Failure>>,
}

#[derive(Clone)]
struct Failure {
    at: Instant,
    back_off: Duration,
    message: String,
}

/// What happened to an image that was needed.
pub(crate) enum Outcome {
    Present(String),
    Pulled { reference: String, took: Duration },
    Waiting(Waiting),
}

// === impl Pulls ===

impl Pulls {
    /// `credentials` are tried in turn; without any the registry is asked anonymously.
    pub(crate) async fn ensure(
        &self,
        runtime: &Runtime,
        (image, policy): (&str, &str),
        credentials: Vec<AuthConfig>,
        sandbox: PodSandboxConfig,
    ) -> Outcome {
        let waiting = |reason: &str, message: String| Outcome::Waiting(Waiting { reason: reason.into(), message });
        let present = match runtime.image(image).await {
            Ok(present) => present,
            Err(why) => return waiting("ImageInspectError", format!("Failed to inspect image {image:?}: {why}")),
        };
        match (policy, present) {
            ("IfNotPresent" | "Never", Some(found)) => return Outcome::Present(found.id),
            ("Never", None) => {
                return waiting("ErrImageNeverPull", format!("Container image {image:?} is not present with pull policy of Never"));
            }
            _ => {}
        }
        if let Some(failure) = self.backing_off(image) {
            return waiting("ImagePullBackOff", format!("Back-off pulling image {image:?}: {}", failure.message));
        }
        let begin = Instant::now();
        match pull(runtime, image, credentials, sandbox).await {
            Ok(reference) => {
                self.lock().remove(image);
                Outcome::Pulled { reference, took: begin.elapsed() }
            }
            Err(why) => {
                let message = format!("ErrImagePull: {why}");
                let before = self.lock().get(image).map(|f| f.back_off);
                let back_off = before.map_or(BACK_OFF_MIN, |b| (b * 2).min(BACK_OFF_MAX));
                self.lock().insert(image.into(), Failure { at: Instant::now(), back_off, message });
                waiting("ErrImagePull", format!("failed to pull image {image:?}: {why}"))
            }
        }
    }

    fn backing_off(&self, image: &str) -> Option<Failure> {
        self.lock().get(image).filter(|f| f.at.elapsed() < f.back_off).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Failure>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pull(runtime: &Runtime, image: &str, credentials: Vec<AuthConfig>, sandbox: PodSandboxConfig) -> Result<String, Error> {
    let mut ways: Vec<Option<AuthConfig>> = credentials.into_iter().map(Some).collect();
    if ways.is_empty() {
        ways.push(None);
    }
    let mut last = Error::Runtime("no way to pull".into());
    for auth in ways {
        match runtime.pull(image, auth, sandbox.clone()).await {
            Ok(reference) => return Ok(reference),
            Err(why) => last = why,
        }
    }
    Err(last)
}
