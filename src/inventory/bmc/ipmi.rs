//! Questions to this machine's BMC, one after the other, each with a limit.
//!
//! Source of the protocol: IPMI specification v2.0, rev. 1.1. Only the kernel's system interface is used (KCS, SSIF).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use crate::sys::ipmi;
use crate::sys::roots::Roots;

/// The driver itself gives up after about 5 s and then answers with a completion code of its own.
const MESSAGE_LIMIT: Duration = Duration::from_secs(6);

/// A kind of request: network function and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub net_function: u8,
    pub number: u8,
}

impl Command {
    pub const fn new(net_function: u8, number: u8) -> Self {
        Self { net_function, number }
    }
}

#[derive(Debug, Error)]
pub enum IpmiError {
    /// The BMC understood, and says no; section 5.2 of the specification tells why.
    #[error("the BMC answers command {:02x} {:02x} with completion code {code:#04x}", command.net_function, command.number)]
    Refused { command: Command, code: u8 },
    #[error("the BMC's answer to command {:02x} {:02x} has {found} bytes, not {expected}", command.net_function, command.number)]
    Short { command: Command, expected: usize, found: usize },
    #[error("the BMC did not answer within {} s", limit.as_secs_f64())]
    TimedOut { limit: Duration },
    #[error("talking to the IPMI driver")]
    Driver(#[source] io::Error),
}

impl IpmiError {
    /// Whether the next question is lost time, too.
    pub fn is_silence(&self) -> bool {
        match self {
            // "Timeout while processing command" is also what the driver says for a BMC that is gone.
            Self::Refused { code, .. } => *code == 0xc3,
            Self::Short { .. } => false,
            Self::TimedOut { .. } | Self::Driver(_) => true,
        }
    }
}

/// A BMC: that of the machine, or a test's.
pub trait Answer {
    /// What follows the completion code 0.
    ///
    /// # Errors
    ///
    /// Another completion code, silence, and what the driver says.
    fn ask(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, IpmiError>;
}

/// The BMC behind an IPMI device of the kernel.
pub struct Device {
    file: File,
    /// All questions have to be answered until then.
    deadline: Instant,
    last_id: i64,
}

/// The device file, under each of its names.
const NAMES: [&str; 3] = ["ipmi0", "ipmi/0", "ipmidev/0"];

/// The device file of the first BMC, if there is one.
pub fn device_path(roots: &Roots) -> Option<PathBuf> {
    NAMES.iter().map(|name| roots.dev.join(name)).find(|path| path.exists())
}

impl Device {
    pub fn open(path: &Path, limit: Duration) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        Ok(Self { file, deadline: Instant::now() + limit, last_id: 0 })
    }

    /// Waits for the answer to request `id`. Whatever else comes is not for us.
    fn receive(&self, id: i64) -> Result<Vec<u8>, IpmiError> {
        let limit = MESSAGE_LIMIT.min(self.deadline.saturating_duration_since(Instant::now()));
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                Ok(0) => return Err(IpmiError::TimedOut { limit }),
                Ok(_) => {
                    let received = ipmi::receive(self.file.as_fd()).map_err(IpmiError::Driver)?;
                    if received.response_to == Some(id) {
                        return Ok(received.data);
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(IpmiError::Driver(error.into())),
            }
        }
    }
}

impl Answer for Device {
    fn ask(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, IpmiError> {
        self.last_id += 1;
        ipmi::send(self.file.as_fd(), self.last_id, command.net_function, command.number, data)
            .map_err(IpmiError::Driver)?;
        parse_answer(command, &self.receive(self.last_id)?)
    }
}

/// The completion code is the first byte.
fn parse_answer(command: Command, answer: &[u8]) -> Result<Vec<u8>, IpmiError> {
    match answer {
        [0, data @ ..] => Ok(data.to_vec()),
        [code, ..] => Err(IpmiError::Refused { command, code: *code }),
        [] => Err(IpmiError::Short { command, expected: 1, found: 0 }),
    }
}

/// The first `N` bytes of an answer.
pub fn first<const N: usize>(command: Command, answer: &[u8]) -> Result<[u8; N], IpmiError> {
    answer.first_chunk().copied().ok_or(IpmiError::Short { command, expected: N, found: answer.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_code_other_than_zero_is_a_refusal() {
        const COMMAND: Command = Command::new(0x0c, 0x02);
        assert_eq!(parse_answer(COMMAND, &[0, 0x11, 4]).expect("done"), [0x11, 4]);
        let refused = parse_answer(COMMAND, &[0xcc]).expect_err("refused");
        assert_eq!(refused.to_string(), "the BMC answers command 0c 02 with completion code 0xcc");
        assert!(!refused.is_silence());
        assert!(matches!(parse_answer(COMMAND, &[]), Err(IpmiError::Short { found: 0, .. })));
    }

    #[test]
    fn a_file_that_is_no_ipmi_device_is_an_error_of_the_driver() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut device = Device::open(file.path(), MESSAGE_LIMIT).expect("it opens");
        let error = device.ask(Command::new(6, 1), &[]).expect_err("no IPMI");
        assert!(matches!(&error, IpmiError::Driver(cause) if cause.raw_os_error() == Some(libc::ENOTTY)), "{error:?}");
    }
}
