//! Disks: erase, plan, partition, file systems, mounts.
