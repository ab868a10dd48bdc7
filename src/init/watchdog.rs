//! The hardware watchdog: a machine whose kernel or agent hangs is reset.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use crate::sys::watchdog::set_timeout;

const TIMEOUT_SECONDS: i32 = 60;
const FEED_EVERY: Duration = Duration::from_secs(10);

/// The open device. Once opened it counts, so it is kept until it is disarmed.
static DEVICE: Mutex<Option<File>> = Mutex::new(None);

/// Opens `/dev/watchdog` when there is one and feeds it for ever. Runs on the agent's own runtime on purpose: a
/// runtime that hangs does not feed.
pub async fn run(dev_root: &Path) {
    let path = dev_root.join("watchdog");
    let device = match OpenOptions::new().write(true).open(&path) {
        Ok(device) => device,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return info!("no watchdog in this machine"),
        Err(error) => return warn!(error = error.to_string(), "going on without watchdog {}", path.display()),
    };
    match set_timeout(&device, TIMEOUT_SECONDS) {
        Ok(seconds) => info!(seconds, "watchdog armed"),
        Err(errno) => warn!(error = errno.to_string(), "watchdog keeps its own time-out"),
    }
    *DEVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
    loop {
        if !write_byte(b'.') {
            return;
        }
        tokio::time::sleep(FEED_EVERY).await;
    }
}

/// Stops the watchdog (magic close, Documentation/watchdog/watchdog-api.rst): the next kernel must not be reset by it.
pub fn disarm() {
    write_byte(b'V');
    *DEVICE.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// `false` when the watchdog is disarmed or was never there.
fn write_byte(byte: u8) -> bool {
    let mut device = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    match device.as_mut() {
        Some(file) => {
            if let Err(error) = file.write_all(&[byte]) {
                warn!(error = error.to_string(), "feeding the watchdog failed");
            }
            true
        }
        None => false,
    }
}
