//! The control plane.

pub mod dns;
pub mod images_http;
pub mod netboot;
pub mod ntp;
