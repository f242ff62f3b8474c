//! Kubernetes objects as values: what they are called, how they are written down, what is allowed in them.
//!
//! ```text
//!   JSON ──▶ schema (types, unknown fields) ──▶ defaults ──▶ validate ──▶ Record ──▶ the replicated state
//!                                                                          │
//!   JSON ◀──────────────────── a copy of bytes, resourceVersion spliced in ◀┘
//! ```
//!
//! The crate is pure: it knows neither the network, the disk nor the clock. Times and names arrive as arguments.
//!
//! Vocabulary: a [`Key`] names one object in the cluster; a [`Record`] is how the object rests; the [`registry`] is
//! the one table that describes every built-in resource; a [`Status`] is Kubernetes' answer when something is wrong.

pub mod admission;
pub mod amounts;
pub mod cipher;
pub mod claim;
pub mod cron;
pub mod custom;
pub mod defaults;
pub mod deletion;
pub mod expression;
pub mod fence;
pub mod field;
mod kept;
pub mod key;
pub mod managed;
pub mod meta;
pub mod names;
pub mod patch;
pub mod quantity;
pub mod query;
pub mod quota;
pub mod record;
pub mod registry;
pub mod resize;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod usage;
pub mod validate;
mod versions;
pub mod volume;

pub use key::Key;
pub use record::Record;
pub use registry::Resource;
pub use status::Status;
