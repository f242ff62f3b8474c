//! The Container Runtime Interface, v1: what a kubelet and a container runtime say to each other (gRPC over a unix
//! socket). `api.proto` is that of `k8s.io/cri-api` v0.37, unchanged; the code is generated from it.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

tonic::include_proto!("runtime.v1");

/// What Skein's kubelet tells Skein's runtime of a Pod, in an annotation: the file of the node's lease that it ends with.
pub const LEASE: &str = "skein.dev/lease";

/// And of a container: the term of the lease that it is to start under.
pub const LEASE_TERM: &str = "skein.dev/lease-term";
