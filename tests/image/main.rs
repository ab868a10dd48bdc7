//! The image engine against real archives, real tools and a server that misbehaves. Runs as root on Linux.

mod acls;
mod archives;
mod blocks;
mod compressions;
mod desk;
mod digests;
mod flood;
mod hostile;
mod http;
mod makers;
mod mirrors;
mod oci;
mod order;
mod proxies;
mod raw;
mod server;
mod signatures;
mod support;
mod trees;
