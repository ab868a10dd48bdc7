//! PID 1: mounts, modules, reaper, watchdog, console, exit door.

pub mod modules;
