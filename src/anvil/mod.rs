//! anvil: the control plane of a rack in one process.
//!
//! What is written: [`config`] is the operator's file, [`store`] the database, [`ca`] and [`keys`] the secrets made at
//! the first start. What is decided: [`fsm`] judges provisioning events, [`sizes`] (with [`glob`]) names a machine's
//! size, [`layouts`] and [`images`] (with [`version`]) what may be installed, [`allocation`] who gets which machine.
//! [`machines`] keeps a machine's record through its life, [`records`] what agents sign, [`enrolment`] who gets keys. What is spoken: [`grpc`] to agents and boot servers,
//! [`rest`] to agents and people, [`netboot`] to firmware, [`images_http`], [`dns`] and [`ntp`] to the rack.
//! [`bundle`] is all of it in one file, for sites that nothing else reaches. [`authority`] tells the network boot what to hand to which machine; [`rack`] and [`serve`] start it all. [`client`] and [`cli`]
//! are the other side of REST: the `anvil` command.
//!
//! [`state::Anvil`] is the cheap handle that all of them share; [`refusal::Refusal`] is how they say no.

pub mod allocation;
pub mod authority;
pub mod bundle;
pub mod ca;
pub mod cli;
pub mod client;
pub mod config;
pub mod dns;
pub mod enrolment;
pub mod fsm;
pub mod glob;
pub mod grpc;
pub mod images;
pub mod images_http;
pub mod keys;
pub mod layouts;
pub mod machines;
pub mod netboot;
pub mod ntp;
pub mod progress;
pub mod rack;
pub mod records;
pub mod refusal;
pub mod rest;
pub mod serve;
pub mod sizes;
pub mod state;
pub mod store;
mod tls;
pub mod version;
pub mod waiting;
