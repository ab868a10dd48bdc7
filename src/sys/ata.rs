//! ATA commands inside SCSI ones (SAT-4: ATA PASS-THROUGH (16)).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::scsi::{self, Transfer};

const ATA_PASS_THROUGH_16: u8 = 0x85;
const COMMAND_BYTES: usize = 16;

/// How data travels (SAT-4, table 150).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    NoData,
    PioIn,
    PioOut,
}

/// The registers of a command. Those of commands with 28 bits use the low byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub command: u8,
    pub features: u16,
    pub count: u16,
    /// 48 bits.
    pub lba: u64,
    /// Whether this is a command with registers of 48 bits.
    pub extended: bool,
    pub protocol: Protocol,
}

/// The command block that carries a command. Those without data are answered with the registers, as descriptor sense;
/// with data, adapters disagree on what comes back beside it, and a refusal is told without asking.
pub fn command_block(command: &Command) -> [u8; COMMAND_BYTES] {
    const RETURN_REGISTERS: u8 = 0x20;
    const FROM_DEVICE: u8 = 0x08;
    /// The transfer's length stands in the count, in blocks of 512 bytes.
    const BLOCKS_IN_COUNT: u8 = 0x04 | 0x02;
    let (protocol, flags) = match command.protocol {
        Protocol::NoData => (3, RETURN_REGISTERS),
        Protocol::PioIn => (4, FROM_DEVICE | BLOCKS_IN_COUNT),
        Protocol::PioOut => (5, BLOCKS_IN_COUNT),
    };
    let (features, count, lba) =
        (command.features.to_be_bytes(), command.count.to_be_bytes(), command.lba.to_le_bytes());
    [
        ATA_PASS_THROUGH_16,
        protocol << 1 | u8::from(command.extended),
        flags,
        features[0],
        features[1],
        count[0],
        count[1],
        lba[3],
        lba[0],
        lba[4],
        lba[1],
        lba[5],
        lba[2],
        0,
        command.command,
        0,
    ]
}

/// SMART RETURN STATUS (ACS-4, 7.43.8). The answer is in the registers that come back as sense data, which is returned
/// as it is. Needs CAP_SYS_RAWIO.
pub fn smart_return_status(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<Vec<u8>> {
    let command = Command {
        command: 0xb0,
        features: 0xda,
        count: 0,
        // The signature without which no SMART command is taken.
        lba: 0x00c2_4f00,
        extended: false,
        protocol: Protocol::NoData,
    };
    Ok(scsi::execute(fd, &command_block(&command), Transfer::None, limit)?.sense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_land_where_the_standard_has_them() {
        let smart = Command {
            command: 0xb0,
            features: 0xda,
            count: 0,
            lba: 0x00c2_4f00,
            extended: false,
            protocol: Protocol::NoData,
        };
        let block = command_block(&smart);
        assert_eq!((block[0], block[1], block[2], block[4], block[10], block[12], block[14]), {
            (0x85, 6, 0x20, 0xda, 0x4f, 0xc2, 0xb0)
        });
        let wide = Command {
            command: 0xb4,
            features: 0x0112,
            count: 0x8001,
            lba: 0x6655_4433_2211,
            extended: true,
            protocol: Protocol::PioOut,
        };
        let block = command_block(&wide);
        assert_eq!(block, [0x85, 0x0b, 0x06, 1, 0x12, 0x80, 1, 0x44, 0x11, 0x55, 0x22, 0x66, 0x33, 0, 0xb4, 0]);
    }
}
