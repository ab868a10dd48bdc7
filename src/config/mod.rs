//! What the operator wants: the kernel command line and MetalConfig.

pub mod cmdline;
