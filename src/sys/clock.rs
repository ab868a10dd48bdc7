//! Setting the system clock and the hardware clock.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// Sets CLOCK_REALTIME. Needs CAP_SYS_TIME.
pub fn set_system_clock(time: SystemTime) -> io::Result<()> {
    let since_epoch = time.duration_since(UNIX_EPOCH).map_err(|_| before_epoch())?;
    Ok(clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(since_epoch))?)
}

/// `struct rtc_time` of linux/rtc.h.
#[repr(C)]
struct RtcTime {
    sec: i32,
    min: i32,
    hour: i32,
    day_of_month: i32,
    month_from_0: i32,
    years_since_1900: i32,
    day_of_week: i32,
    day_of_year: i32,
    is_dst: i32,
}

nix::ioctl_write_ptr!(rtc_set_time, b'p', 0x0a, RtcTime);

/// Sets the hardware clock `device` (e.g. `/dev/rtc0`) to `time` in UTC, whole seconds.
pub fn set_hardware_clock(device: &Path, time: SystemTime) -> io::Result<()> {
    let utc = time::OffsetDateTime::from(time);
    let fields = RtcTime {
        sec: i32::from(utc.second()),
        min: i32::from(utc.minute()),
        hour: i32::from(utc.hour()),
        day_of_month: i32::from(utc.day()),
        month_from_0: i32::from(u8::from(utc.month())) - 1,
        years_since_1900: utc.year() - 1900,
        day_of_week: 0,
        day_of_year: 0,
        is_dst: 0,
    };
    let file = File::open(device)?;
    // SAFETY: `file` is open for the whole call, and `fields` is a live rtc_time that the kernel only reads.
    unsafe { rtc_set_time(file.as_raw_fd(), &raw const fields) }?;
    Ok(())
}

fn before_epoch() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "time lies before 1970")
}
