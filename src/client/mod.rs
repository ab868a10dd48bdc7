//! What the agent asks of the control plane.
//!
//! - `boot`: gRPC BootService over mTLS
//! - `events`: provisioning events, sent in order from a queue
//! - `rest`: the machine and its allocation, with HMAC
//! - `signature`: signs what is to be kept: erase records, plans
//! - `metal_config`: the configuration that names all of them
//! - `log_queue`, `loki`: the log, to a server

pub mod boot;
pub mod events;
pub mod log_queue;
pub mod loki;
pub mod metal_config;
pub mod rest;
pub mod signature;
