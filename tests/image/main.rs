//! The image engine against real archives, real tools and a server that misbehaves. Runs as root on Linux.

mod archives;
mod digests;
mod hostile;
mod http;
mod mirrors;
mod order;
mod proxies;
mod raw;
mod server;
mod signatures;
mod support;
mod trees;
