//! Reads and writes are linearizable: they happen at one instant between request and answer.
//!
//! The system itself names the order, by revision; so it is enough that this order contradicts no client. A request
//! that was made after an answer must come after it in the order, a read shows the last change at its revision, and a
//! precondition held or failed against the change right before it.

use std::collections::BTreeMap;

use crate::{Answer, Chronicle, Invariant, Observation, Request};

struct Open {
    key: String,
    request: Request,
    /// The latest revision that any client had heard of when this was asked.
    floor: u64,
}

#[derive(Default)]
pub(crate) struct Linearizability {
    open: BTreeMap<u64, Open>,
    /// What could not be judged yet: the chronicle may lag behind the answers.
    answered: Vec<(Open, Answer)>,
    heard: u64,
}

impl Linearizability {
    fn judge(chronicle: &Chronicle, open: &Open, answer: &Answer) -> Result<(), String> {
        let Open { key, request, floor } = open;
        match answer {
            Answer::Done { revision } => {
                let change = chronicle.at(*revision).ok_or_else(|| format!("revision {revision} was answered and never seen"))?;
                let digest = match request {
                    Request::Put { digest } | Request::Create { digest } | Request::Update { digest, .. } => Some(*digest),
                    Request::Delete { .. } | Request::Read => None,
                };
                if change.key != *key || change.digest != digest {
                    return Err(format!("{request:?} of {key} was answered with revision {revision}, which is {change:?}"));
                }
                let before = chronicle.last_of(key, revision - 1);
                let before_revision = before.filter(|b| b.digest.is_some()).map_or(0, |b| b.revision);
                match request {
                    Request::Create { .. } if before_revision != 0 => Err(format!("{key} was created at {revision} although it was there")),
                    Request::Update { expected, .. } | Request::Delete { expected } if *expected != before_revision => {
                        Err(format!("{key} was changed at {revision} on the basis of {expected}, but was at {before_revision}"))
                    }
                    _ => Ok(()),
                }
            }
            Answer::Refused { found } => {
                let known = chronicle.last_of(key, *floor).filter(|change| change.digest.is_some());
                if *found != 0 && known.is_some_and(|change| change.revision > *found) {
                    return Err(format!("{request:?} of {key} met revision {found}, older than what was known at {floor}"));
                }
                if let (Request::Create { digest } | Request::Update { digest, .. }, Some(change)) = (request, chronicle.at(*found))
                    && change.digest == Some(*digest)
                {
                    return Err(format!("{request:?} of {key} was refused because of itself"));
                }
                Ok(())
            }
            Answer::Seen { revision, found } => {
                let last = chronicle.last_of(key, *revision).and_then(|change| Some((change.revision, change.digest?)));
                if last != *found {
                    return Err(format!("{key} at {revision} is {last:?}, but a read saw {found:?}"));
                }
                Ok(())
            }
            Answer::Unknown => Ok(()),
        }
    }
}

impl Invariant for Linearizability {
    fn name(&self) -> &'static str {
        "linearizability"
    }

    fn source(&self) -> &'static str {
        "Herlihy and Wing 1990"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Asked { operation, key, request } => {
                self.open.insert(*operation, Open { key: key.clone(), request: request.clone(), floor: self.heard });
            }
            Observation::Answered { operation, answer } => {
                let Some(open) = self.open.remove(operation) else { return Err(format!("operation {operation} was answered twice")) };
                match answer {
                    Answer::Done { revision } if *revision <= open.floor => {
                        return Err(format!(
                            "{:?} of {} got revision {revision}, but {} was known before it was asked",
                            open.request, open.key, open.floor
                        ));
                    }
                    Answer::Seen { revision, .. } if *revision < open.floor => {
                        return Err(format!(
                            "a read of {} saw revision {revision}, but {} was known before it was asked",
                            open.key, open.floor
                        ));
                    }
                    Answer::Done { revision } | Answer::Seen { revision, .. } => self.heard = self.heard.max(*revision),
                    Answer::Refused { found } => self.heard = self.heard.max(*found),
                    Answer::Unknown => {}
                }
                self.answered.push((open, answer.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, chronicle: &Chronicle) -> Result<(), String> {
        self.answered.iter().try_for_each(|(open, answer)| Self::judge(chronicle, open, answer))
    }
}
