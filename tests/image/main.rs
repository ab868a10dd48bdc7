//! The image engine against real archives, real tools and a server that misbehaves. Runs as root on Linux.

mod archives;
mod compressions;
mod digests;
mod hostile;
mod http;
mod oci;
mod order;
mod raw;
mod support;
mod trees;
