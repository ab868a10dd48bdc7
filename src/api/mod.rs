//! What goes over the wire between machines and their control plane: metal-stack's protocols, exactly.
//!
//! Shared by both programs, so there is no policy here: types, their encodings, and the rules that make a value valid.
//!
//! - `grpc`: BootService and EventService (`proto/`)
//! - `rest`: the REST machine and what hangs on it
//! - `layout`: file system layouts
//! - `mac`: Ethernet addresses
//! - `ca_pin`: which server may hand the configuration to the agent
//! - `machine_id`: which UUIDs can be a machine's id
//! - `enrolment`: who may have that configuration
//! - `metal_config`: what the boot server hands to the agent
//! - `masked`: kernel command lines without their secrets
//! - `event`: names of the provisioning events
//! - `progress`: what the agent tells beyond them, in the messages of `Alive` events
//! - `jws`: signatures of what a machine says it did
//! - `erasure`: erase records and plans as anvil shows them
//! - `hmac`: authentication of REST calls
//! - `ssh_key`: which lines are public keys
//! - `image_key`, `image_places`: what signs images, and where else they are

pub mod ca_pin;
pub mod enrolment;
pub mod erasure;
pub mod event;
pub mod hmac;
pub mod image_key;
pub mod image_places;
pub mod jws;
pub mod layout;
pub mod mac;
pub mod machine_id;
pub mod masked;
pub mod metal_config;
pub mod progress;
pub mod rest;
pub mod ssh_key;

/// Code generated from `proto/api/v1`: messages, clients and servers of `api.v1`.
#[allow(clippy::all, missing_docs)]
pub mod grpc {
    tonic::include_proto!("api.v1");
}

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default, since upstream's servers send `null` for empty lists and strings.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
