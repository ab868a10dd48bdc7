//! The image engine against real archives, real tools and a server that misbehaves. Runs as root on Linux.

mod acls;
mod archives;
mod blocks;
mod compressions;
mod digests;
mod flood;
mod hostile;
mod http;
mod makers;
mod order;
mod raw;
mod support;
mod trees;
