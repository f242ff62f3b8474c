//! The API's resources of `chaos.skein.dev/v1alpha1`, and how agents and coordinators read and write them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::{Api, ask_in_turn};

pub(crate) const EXPERIMENTS: &str = "chaosexperiments";
pub(crate) const FAULTS: &str = "chaosfaults";

const GROUP: &str = "/apis/chaos.skein.dev/v1alpha1";

/// A status is written so often where others write it, too.
const ATTEMPTS: usize = 5;

/// Where nothing can be waited for, this is how long it takes to look again.
const AGAIN: Duration = Duration::from_secs(2);

/// The definitions of the resources and what agents may do, as objects of the API.
#[must_use]
pub fn definitions() -> Vec<Value> {
    serde_yaml_ng::from_str(include_str!("definitions.yaml")).expect("the definitions are a list of objects")
}

/// All objects of a resource, and the revision that they were read at.
pub(crate) struct Listed {
    pub(crate) revision: String,
    pub(crate) items: Vec<Value>,
}

/// The resources, asked of this node first and then of the others.
#[derive(Clone)]
pub(crate) struct Resources {
    pub(crate) api: Arc<dyn Api>,
    /// The name of this node.
    pub(crate) own: String,
}

// === impl Resources ===

impl Resources {
    /// This node, then the others.
    fn nodes(&self) -> Vec<String> {
        let mut nodes = self.api.nodes();
        nodes.sort_by_key(|node| *node != self.own);
        nodes
    }

    /// What the first node answers that has a quorum.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let (code, body) = ask_in_turn(&*self.api, self.nodes(), method, path, body)?;
        Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// The same, where all but success is a failure.
    pub(crate) fn demand(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let (code, answer) = self.ask(method, path, body)?;
        if (200..300).contains(&code) { Ok(answer) } else { Err(answer["message"].as_str().unwrap_or("refused").to_string()) }
    }

    pub(crate) fn list(&self, resource: &str) -> Result<Listed, String> {
        let mut list = self.demand("GET", &format!("{GROUP}/{resource}"), None)?;
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Ok(Listed { revision: list["metadata"]["resourceVersion"].as_str().unwrap_or_default().into(), items })
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Result<(u16, Value), String> {
        self.ask("GET", &format!("{GROUP}/{resource}/{name}"), None)
    }

    pub(crate) fn create(&self, resource: &str, object: &Value) -> Result<Value, String> {
        self.demand("POST", &format!("{GROUP}/{resource}"), Some(object))
    }

    pub(crate) fn delete(&self, resource: &str, name: &str) -> Result<(), String> {
        match self.ask("DELETE", &format!("{GROUP}/{resource}/{name}"), None)? {
            (200..=299 | 404, _) => Ok(()),
            (_, answer) => Err(answer["message"].as_str().unwrap_or("refused").to_string()),
        }
    }

    /// Writes a status that follows from the object as it is.
    pub(crate) fn set_status(&self, resource: &str, name: &str, status: impl Fn(&Value) -> Value) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let (code, mut object) = self.get(resource, name)?;
            if code != 200 {
                return Err(object["message"].as_str().unwrap_or("it is not there").to_string());
            }
            object["status"] = status(&object);
            match self.replace_status(resource, &object) {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Writes the status of an object that is still as it was read.
    pub(crate) fn replace_status(&self, resource: &str, object: &Value) -> Result<(), String> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.demand("PUT", &format!("{GROUP}/{resource}/{name}/status"), Some(object)).map(drop)
    }

    /// Waits until something has changed since a list, or for so long.
    pub(crate) fn wait(&self, resource: &str, listed: Option<&str>, patience: Duration) {
        let waited = match listed {
            Some(revision) => {
                let path = format!("{GROUP}/{resource}?watch=true&resourceVersion={revision}&timeoutSeconds={}", patience.as_secs() + 1);
                self.api.first_line(&self.own, &path, patience)
            }
            None => Err("there is no list to wait behind".into()),
        };
        if waited.is_err() {
            std::thread::sleep(AGAIN.min(patience));
        }
    }
}
