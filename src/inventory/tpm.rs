//! The Trusted Platform Module.
//!
//! Sources: `/sys/class/tpm/tpm0/`, which tells the version, and for TPM 1.2 the manufacturer; a TPM 2.0 has to be
//! asked through its resource manager `/dev/tpmrm0`, which takes turns with others (`/dev/tpm0` is one program's).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use schemars::JsonSchema;
use serde::Serialize;

use super::Reading;
use super::attribute::{parse_hex, read_bytes, read_indices, read_number, read_text};
use super::tpm2::{self, Properties};
use crate::sys::roots::Roots;

/// A property is answered in milliseconds; a TPM that tests itself after power-on takes up to a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tpm {
    /// Absent when the kernel does not tell (before 5.6) and nothing else shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<TpmVersion>,
    /// The letters that TCG gave to the maker, e.g. `IFX` (Infineon), `NTC` (Nuvoton), `INTC` (Intel, in the chipset).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Two numbers with a point between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum TpmVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "2.0")]
    V2_0,
}

/// The first TPM; `None` when the kernel has no driver for one.
pub fn read(roots: &Roots) -> Reading<Option<Tpm>> {
    let class = roots.sys.join("class/tpm");
    let Some(index) = read_indices(&class, "tpm").first().copied() else { return Reading::default() };
    let dir = class.join(format!("tpm{index}"));
    match read_version(&dir) {
        Some(TpmVersion::V1_2) => {
            Reading { found: Some(parse_caps(&read_caps(&dir).unwrap_or_default())), warnings: Vec::new() }
        }
        // Its manufacturer takes asking it.
        Some(TpmVersion::V2_0) if !roots.is_live() => {
            let version = Some(TpmVersion::V2_0);
            Reading { found: Some(Tpm { version, ..Tpm::default() }), warnings: Vec::new() }
        }
        Some(TpmVersion::V2_0) => {
            let device = format!("tpmrm{index}");
            let mut warnings = Vec::new();
            let Properties { manufacturer, firmware_version } = ask(&roots.dev.join(&device)).unwrap_or_else(|error| {
                warnings.push(format!("TPM: its manufacturer is not known: asking /dev/{device}: {error:#}"));
                Properties::default()
            });
            let version = Some(TpmVersion::V2_0);
            Reading { found: Some(Tpm { version, manufacturer, firmware_version }), warnings }
        }
        None => {
            let warning = format!("TPM: /sys/class/tpm/tpm{index} tells no version");
            Reading { found: Some(Tpm::default()), warnings: vec![warning] }
        }
    }
}

fn read_version(dir: &Path) -> Option<TpmVersion> {
    match read_number(&dir.join("tpm_version_major")) {
        Some(1) => Some(TpmVersion::V1_2),
        Some(2) => Some(TpmVersion::V2_0),
        // Before Linux 5.6: ACPI's words, or the file that only a TPM 1.2 has.
        _ if read_text(&dir.join("device/description")).is_some_and(|text| text.contains("TPM 2.0")) => {
            Some(TpmVersion::V2_0)
        }
        _ => read_caps(dir).map(|_| TpmVersion::V1_2),
    }
}

/// `caps` moved from the device to the class in Linux 4.2.
fn read_caps(dir: &Path) -> Option<String> {
    let bytes = read_bytes(&dir.join("caps")).or_else(|| read_bytes(&dir.join("device/caps")))?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `Manufacturer: 0x49465800`, `TCG version: 1.2`, `Firmware version: 4.43`, one a line.
fn parse_caps(text: &str) -> Tpm {
    let value = |key: &str| {
        let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| *name == key)?;
        Some(value.trim()).filter(|value| !value.is_empty())
    };
    let manufacturer = value("Manufacturer").and_then(parse_hex).and_then(|id| u32::try_from(id).ok());
    Tpm {
        version: Some(TpmVersion::V1_2),
        manufacturer: manufacturer.and_then(tpm2::parse_manufacturer),
        firmware_version: value("Firmware version").map(str::to_owned),
    }
}

/// Asks a TPM 2.0, within [`ANSWER_LIMIT`].
fn ask(device: &Path) -> Result<Properties> {
    let response = exchange(&mut open(device)?, &tpm2::properties_command(), ANSWER_LIMIT)?;
    Ok(tpm2::parse_properties(&response)?)
}

/// In a captured tree any file may stand for the device, and must not be written to.
fn open(device: &Path) -> Result<File> {
    if !std::fs::metadata(device)?.file_type().is_char_device() {
        bail!("it is no device");
    }
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(device)?;
    Ok(file)
}

/// One command and its answer. The device is non-blocking: the command is queued, and readable means answered.
fn exchange<D: Read + Write + AsFd>(device: &mut D, command: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let written = device.write(command)?;
    if written != command.len() {
        return Err(io::Error::new(ErrorKind::WriteZero, format!("it took {written} of {} bytes", command.len())));
    }
    let deadline = Instant::now() + limit;
    let mut response = vec![0; tpm2::LONGEST_RESPONSE];
    loop {
        wait_readable(device, deadline)?;
        match device.read(&mut response) {
            Ok(length) => {
                response.truncate(length);
                return Ok(response);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait_readable(device: &impl AsFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        // Milliseconds are rounded down, and a wait of none would turn this into a fast loop.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::super::tpm2::tests::infineon;
    use super::*;

    #[test]
    fn the_lines_of_a_tpm_1_2_are_read() {
        let tpm = parse_caps("Manufacturer: 0x49465800\nTCG version: 1.2\nFirmware version: 4.43\n");
        let expected = Tpm {
            version: Some(TpmVersion::V1_2),
            manufacturer: Some("IFX".to_owned()),
            firmware_version: Some("4.43".to_owned()),
        };
        assert_eq!(tpm, expected);
        assert_eq!(parse_caps("Manufacturer: 0x4946580000\nFirmware version:").manufacturer, None);
    }

    #[test]
    fn the_version_is_found_on_old_kernels_too() {
        let version = |file: &str, text: &str| {
            let root = tempfile::tempdir().expect("temporary folder");
            let file = root.path().join("sys/class/tpm/tpm0").join(file);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("making a folder");
            std::fs::write(&file, text).expect("writing a file");
            read(&Roots::under(root.path())).found.expect("a TPM").version
        };
        assert_eq!(version("tpm_version_major", "2\n"), Some(TpmVersion::V2_0));
        assert_eq!(version("tpm_version_major", "1\n"), Some(TpmVersion::V1_2));
        assert_eq!(version("device/description", "TPM 2.0 Device\n"), Some(TpmVersion::V2_0));
        assert_eq!(version("device/caps", "Manufacturer: 0x49465800\n"), Some(TpmVersion::V1_2));
        assert_eq!(version("uevent", ""), None);
        assert_eq!(read(&Roots::under(std::path::Path::new("/nowhere"))), Reading::default());
    }

    #[test]
    fn a_tpm_that_takes_its_time_is_waited_for() {
        let (mut ours, mut tpms) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("non-blocking");
        let tpm = thread::spawn(move || {
            let mut command = vec![0; tpm2::properties_command().len()];
            tpms.read_exact(&mut command).expect("the command");
            tpms.write_all(&infineon()).expect("answering");
            command
        });
        let response = exchange(&mut ours, &tpm2::properties_command(), Duration::from_secs(60)).expect("an answer");
        assert_eq!(tpm.join().expect("the TPM"), tpm2::properties_command());
        assert_eq!(tpm2::parse_properties(&response).expect("properties").manufacturer.as_deref(), Some("IFX"));
    }

    #[test]
    fn a_tpm_that_does_not_answer_is_given_up() {
        let (mut ours, _tpms) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("non-blocking");
        let error = exchange(&mut ours, &tpm2::properties_command(), Duration::from_millis(5)).expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_file_in_place_of_the_device_is_not_written_to() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("tpmrm0");
        std::fs::write(&file, b"precious").expect("writing a file");
        assert!(format!("{:#}", ask(&file).expect_err("no device")).contains("no device"));
        assert_eq!(std::fs::read(&file).expect("reading it"), b"precious");
    }
}
