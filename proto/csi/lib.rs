//! The Container Storage Interface, v1: what a kubelet and a storage driver say to each other (gRPC over a unix socket),
//! and how a driver makes itself known to a kubelet. `csi.proto` is that of the specification v1.13, and
//! `pluginregistration.proto` that of `k8s.io/kubelet` v0.37, both unchanged; the code is generated from them.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

tonic::include_proto!("csi.v1");

/// `pluginregistration`: a plugin says who it is and hears whether it was taken.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
