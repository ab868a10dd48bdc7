//! Whether the kernel thinks that its clock is right.

use std::io;

/// What adjtimex(2) tells about the system clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// Some program disciplines the clock (STA_UNSYNC is not set).
    pub synchronised: bool,
    /// The kernel's bound of the error, in microseconds.
    pub max_error_us: u64,
}

/// Reads the state and changes nothing.
pub fn read_clock_state() -> io::Result<ClockState> {
    // SAFETY: `timex` is plain integers, for which zero is a valid value; `modes` 0 asks to change nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives through the call.
    let state = unsafe { libc::adjtimex(&mut timex) };
    if state == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(ClockState {
        synchronised: state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0,
        max_error_us: u64::try_from(timex.maxerror).unwrap_or(u64::MAX),
    })
}
