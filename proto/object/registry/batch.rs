//! The `batch` group: work that ends.

use k8s_openapi::api::batch::v1;

use super::{Resource, Subresource, entry};
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            categories: &["all"],
            subresources: &[Subresource::Status],
            has_generation: true,
            default: defaults::batch::job,
            validate: validate::batch::job,
            selectable: &["status.successful"],
            columns: table::batch::job,
            ..entry::<v1::Job>("jobs", "job", "io.k8s.api.batch.v1.Job")
        },
        Resource {
            short_names: &["cj"],
            categories: &["all"],
            subresources: &[Subresource::Status],
            has_generation: true,
            default: defaults::batch::cron_job,
            validate: validate::batch::cron_job,
            columns: table::batch::cron_job,
            ..entry::<v1::CronJob>("cronjobs", "cronjob", "io.k8s.api.batch.v1.CronJob")
        },
    ]
}
