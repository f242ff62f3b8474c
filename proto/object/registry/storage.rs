//! Volumes and devices that are not a Pod's own.

use std::borrow::Cow;

use super::{Resource, Subresource, entry};
use crate::{defaults, table, validate};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            default: defaults::storage::csi_driver,
            validate: validate::storage::csi_driver,
            columns: table::storage::csi_driver,
            deleted_is_shown: true,
            ..entry("storage.k8s.io", "v1", "CSIDriver", "csidrivers")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::storage::csi_node,
            prepare: defaults::storage::csi_node,
            validate: validate::storage::csi_node,
            deleted_is_shown: true,
            ..entry("storage.k8s.io", "v1", "CSINode", "csinodes")
        },
        Resource {
            columns: table::name_and_creation,
            validate: validate::storage::capacity,
            ..entry("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["sc"]),
            default: defaults::storage::class,
            validate: validate::storage::class,
            columns: table::storage::class,
            deleted_is_shown: true,
            ..entry("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::storage::attachment,
            validate: validate::storage::attachment,
            deleted_is_shown: true,
            ..entry("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments")
        },
        Resource {
            namespaced: false,
            short_names: Cow::Borrowed(&["vac"]),
            columns: table::storage::attributes_class,
            validate: validate::storage::attributes_class,
            deleted_is_shown: true,
            ..entry("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses")
        },
        Resource {
            namespaced: false,
            has_generation: true,
            validate: validate::device::class,
            deleted_is_shown: true,
            ..entry("resource.k8s.io", "v1", "DeviceClass", "deviceclasses")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            has_generation: true,
            columns: table::storage::device_taint_rule,
            ..entry("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules")
        },
        Resource {
            subresources: Cow::Borrowed(&[Subresource::Status]),
            default: defaults::storage::resource_claim,
            prepare: defaults::storage::forget_derived_attributes,
            validate: validate::device::claim,
            columns: table::storage::resource_claim,
            deleted_is_shown: true,
            ..entry("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims")
        },
        Resource {
            default: defaults::storage::resource_claim_template,
            prepare: defaults::storage::forget_derived_attributes,
            validate: validate::device::template,
            deleted_is_shown: true,
            ..entry("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
        },
        Resource {
            namespaced: false,
            has_generation: true,
            selectable: Cow::Borrowed(&["spec.nodeName", "spec.driver"]),
            columns: table::storage::resource_slice,
            deleted_is_shown: true,
            ..entry("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
        },
        Resource {
            namespaced: false,
            subresources: Cow::Borrowed(&[Subresource::Status]),
            columns: table::storage::version_migration,
            validate: validate::storage::version_migration,
            ..entry("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
        },
    ]
}
