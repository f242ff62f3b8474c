//! The `batch` group: work that ends.

use std::borrow::Cow;

use super::{Resource, Subresource, entry};
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            default: defaults::batch::job,
            prepare: defaults::batch::prepare_job,
            validate: validate::batch::job,
            selectable: Cow::Borrowed(&["status.successful"]),
            columns: table::batch::job,
            ..entry("batch", "v1", "Job", "jobs")
        },
        Resource {
            short_names: Cow::Borrowed(&["cj"]),
            categories: Cow::Borrowed(&["all"]),
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            default: defaults::batch::cron_job,
            prepare: defaults::batch::forget_disabled,
            validate: validate::batch::cron_job,
            columns: table::batch::cron_job,
            ..entry("batch", "v1", "CronJob", "cronjobs")
        },
    ]
}
