//! The Container Runtime Interface, v1: what a kubelet and a container runtime say to each other (gRPC over a unix
//! socket). `api.proto` is that of `k8s.io/cri-api` v0.37, unchanged; the code is generated from it.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

tonic::include_proto!("runtime.v1");
