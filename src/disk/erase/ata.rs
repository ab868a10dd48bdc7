//! SANITIZE DEVICE and the security commands of SATA disks (ACS-4).
//!
//! A security erase needs a password, and a disk that loses power while it has one is locked. So ours is fixed and
//! known to everybody: [`PASSWORD`]. It protects nothing and is not meant to; whoever finds a disk of a machine that died
//! during the erase, we at the next start first of all, can open it again.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::method::{ATA_ERASE_LIMIT, Method};
use super::nvme::share_of;
use super::scsi::SHORT_LIMIT;
use super::sense::{check, find_descriptor};
use super::watch::Watch;
use crate::disk::block::ScsiPort;
use crate::sys::ata::{Command, Protocol, command_block};
use crate::sys::scsi::{Answer, Transfer};

/// The user password while a security erase runs, filled up with zeros to 32 bytes.
pub const PASSWORD: &[u8; 16] = b"drophammer-erase";

const SECTOR: usize = 512;
const IDENTIFY_DEVICE: u8 = 0xec;
const SANITIZE_DEVICE: u8 = 0xb4;
const SECURITY_SET_PASSWORD: u8 = 0xf1;
const SECURITY_UNLOCK: u8 = 0xf2;
const SECURITY_ERASE_PREPARE: u8 = 0xf3;
const SECURITY_ERASE_UNIT: u8 = 0xf4;
const SECURITY_DISABLE_PASSWORD: u8 = 0xf6;

/// What IDENTIFY DEVICE says of erasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtaAbilities {
    pub sanitize_crypto: bool,
    pub sanitize_block: bool,
    pub sanitize_overwrite: bool,
    pub security: Option<Security>,
}

/// The security feature set (word 128), and how long an erase takes by the disk's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// A user password is set.
    pub enabled: bool,
    /// It was not given yet.
    pub locked: bool,
    /// No password is taken or changed until the next power-on.
    pub frozen: bool,
    /// Too many wrong ones were given.
    pub expired: bool,
    pub enhanced: bool,
    pub normal_time: Option<Duration>,
    pub enhanced_time: Option<Duration>,
}

pub fn read_ata_abilities(port: &dyn ScsiPort) -> Result<AtaAbilities> {
    let mut data = [0_u8; SECTOR];
    let command = Command { protocol: Protocol::PioIn, count: 1, ..short(IDENTIFY_DEVICE) };
    run(port, &command, Transfer::In(&mut data), SHORT_LIMIT).context("IDENTIFY DEVICE")?;
    Ok(parse_identify(&data))
}

/// Words 59 (sanitize), 82 and 128 (security), 89 and 90 (times).
fn parse_identify(data: &[u8]) -> AtaAbilities {
    let word = |index: usize| {
        let bytes = data.get(index * 2..index * 2 + 2).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u16::from_le_bytes)
    };
    let bit = |index: usize, bit: u16| word(index) >> bit & 1 == 1;
    let sanitize = bit(59, 12);
    let security = (bit(82, 1) && bit(128, 0)).then(|| Security {
        enabled: bit(128, 1),
        locked: bit(128, 2),
        frozen: bit(128, 3),
        expired: bit(128, 4),
        enhanced: bit(128, 5),
        normal_time: parse_time(word(89)),
        enhanced_time: parse_time(word(90)),
    });
    AtaAbilities {
        sanitize_crypto: sanitize && bit(59, 13),
        sanitize_block: sanitize && bit(59, 15),
        sanitize_overwrite: sanitize && bit(59, 14),
        security,
    }
}

/// In units of two minutes: bits 7:0, or 14:0 when bit 15 is set. The highest value means longer than that.
fn parse_time(word: u16) -> Option<Duration> {
    let (units, most) = if word & 0x8000 != 0 { (word & 0x7fff, 0x7fff) } else { (word & 0xff, 0xff) };
    (units != 0 && units != most).then(|| Duration::from_secs(u64::from(units) * 120))
}

/// Removes the password that a broken-off erase of ours left. Others' are left alone. `true` when there was one.
pub fn remove_own_password(port: &dyn ScsiPort, security: Option<Security>) -> Result<bool> {
    let Some(security) = security.filter(|security| security.enabled && !security.frozen && !security.expired) else {
        return Ok(false);
    };
    disable_password(port, security.locked)?;
    Ok(true)
}

fn disable_password(port: &dyn ScsiPort, locked: bool) -> Result<()> {
    if locked {
        send_password(port, SECURITY_UNLOCK, 0, SHORT_LIMIT).context("SECURITY UNLOCK")?;
    }
    send_password(port, SECURITY_DISABLE_PASSWORD, 0, SHORT_LIMIT).context("SECURITY DISABLE PASSWORD")
}

/// SECURITY ERASE UNIT. The password is gone afterwards, whatever happened, or the error says that it is not.
pub fn secure_erase(port: &dyn ScsiPort, method: Method, watch: &Watch<'_>) -> Result<()> {
    const ENHANCED: u16 = 1 << 1;
    let security = read_ata_abilities(port)?.security.context("the disk has no security commands")?;
    check_state(&security)?;
    let (mode, estimate) = match method {
        Method::AtaSecureEraseEnhanced => (ENHANCED, security.enhanced_time),
        _ => (0, security.normal_time),
    };
    // The disk's own time is that of a disk without defects.
    let limit = estimate.map_or(ATA_ERASE_LIMIT, |time| time * 2 + Duration::from_secs(1800));
    // Set even when this is answered with an error that came late, so the way out is the same.
    let erased =
        send_password(port, SECURITY_SET_PASSWORD, 0, SHORT_LIMIT).context("SECURITY SET PASSWORD").and_then(|()| {
            watch.silent(limit, estimate);
            run(port, &short(SECURITY_ERASE_PREPARE), Transfer::None, SHORT_LIMIT).context("SECURITY ERASE PREPARE")?;
            send_password(port, SECURITY_ERASE_UNIT, mode, limit).context("SECURITY ERASE UNIT")
        });
    // An erase that succeeds takes the password with it; one that fails does not.
    let state = read_ata_abilities(port).context("looking whether the password is gone").map(|now| now.security);
    let cleaned = match state {
        Ok(Some(now)) if now.enabled => disable_password(port, now.locked),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    match (erased, cleaned) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) => Err(error),
        (Ok(()), Err(left)) => Err(left.context(password_is_left())),
        (Err(error), Err(left)) => Err(anyhow!("{error:#}; {}: {left:#}", password_is_left())),
    }
}

fn password_is_left() -> String {
    format!("the disk may be locked with the password {:?}", String::from_utf8_lossy(PASSWORD))
}

fn check_state(security: &Security) -> Result<()> {
    if security.frozen {
        bail!("the firmware has frozen the disk's security commands until its next power-on");
    }
    if security.expired {
        bail!("too many wrong passwords were given; the disk takes none until its next power-on");
    }
    if security.locked {
        bail!("the disk is locked with a user or master password that is not ours");
    }
    if security.enabled {
        bail!("the disk has a user password that is not ours");
    }
    Ok(())
}

/// A command with our user password and, in word 0, its options; level high, where a master password can still help.
fn send_password(port: &dyn ScsiPort, command: u8, options: u16, limit: Duration) -> Result<()> {
    let mut data = [0_u8; SECTOR];
    data[..2].copy_from_slice(&options.to_le_bytes());
    data[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
    let command = Command { protocol: Protocol::PioOut, count: 1, ..short(command) };
    run(port, &command, Transfer::Out(&data), limit).map(|_| ())
}

/// SANITIZE DEVICE (ACS-4, 7.36), to its end.
pub fn sanitize(port: &dyn ScsiPort, method: Method, watch: &Watch<'_>, size_bytes: u64) -> Result<()> {
    const CRYPTO_SCRAMBLE: (u16, u64) = (0x11, 0x4372_7970); // "Cryp"
    const BLOCK_ERASE: (u16, u64) = (0x12, 0x426b_4572); // "BkEr"
    /// "OW", then the pattern of 32 bits: zeros.
    const OVERWRITE: (u16, u64) = (0x14, 0x4f57_0000_0000);
    /// Else a sanitize that fails leaves a disk that takes no other method.
    const FAILURE_MAY_BE_LEFT: u16 = 1 << 4;
    const ONE_PASS: u16 = 1;
    let ((features, lba), passes) = match method {
        Method::AtaSanitizeCrypto => (CRYPTO_SCRAMBLE, 0),
        Method::AtaSanitizeBlock => (BLOCK_ERASE, 0),
        _ => (OVERWRITE, ONE_PASS),
    };
    let count = FAILURE_MAY_BE_LEFT | passes;
    let registers = run(port, &sanitize_command(features, count, lba), Transfer::None, SHORT_LIMIT)?;
    if let Some(registers) = registers.filter(|registers| registers.is_frozen()) {
        bail!("sanitize is frozen until the disk's next power-on (status {:#06x})", registers.count);
    }
    match wait_for_sanitize(port, watch, size_bytes) {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => {
            leave_failure_mode(port);
            bail!("the disk reports that it failed");
        }
        Ok(None) => bail!("the disk does not tell how it ended"),
        // A failure can also be told by refusing the question.
        Err(error) => {
            leave_failure_mode(port);
            Err(error)
        }
    }
}

/// After a sanitize that failed the disk takes nothing else. If this is not left, the next method says so.
pub fn leave_failure_mode(port: &dyn ScsiPort) {
    const CLEAR_FAILURE: u16 = 1;
    let _ = run(port, &sanitize_command(0, CLEAR_FAILURE, 0), Transfer::None, SHORT_LIMIT);
}

/// Waits for a sanitize that runs, ours or one that a power cut broke off: whether the last one succeeded; `None` when
/// the disk or its adapter does not say.
pub fn wait_for_sanitize(port: &dyn ScsiPort, watch: &Watch<'_>, size_bytes: u64) -> Result<Option<bool>> {
    loop {
        let status = run(port, &sanitize_command(0, 0, 0), Transfer::None, SHORT_LIMIT).context("SANITIZE STATUS")?;
        let Some(registers) = status else { return Ok(None) };
        if !registers.is_sanitizing() {
            return Ok(Some(registers.is_sanitized()));
        }
        watch.by_itself(share_of(size_bytes, (registers.lba & 0xffff) as u16))?;
        sleep(watch.poll);
    }
}

fn sanitize_command(features: u16, count: u16, lba: u64) -> Command {
    Command { features, count, lba, extended: true, ..short(SANITIZE_DEVICE) }
}

fn short(command: u8) -> Command {
    Command { command, features: 0, count: 0, lba: 0, extended: false, protocol: Protocol::NoData }
}

/// The registers after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers {
    error: u8,
    status: u8,
    count: u16,
    lba: u64,
}

impl Registers {
    fn is_sanitized(self) -> bool {
        self.count & 0x8000 != 0
    }

    fn is_sanitizing(self) -> bool {
        self.count & 0x4000 != 0
    }

    fn is_frozen(self) -> bool {
        self.count & 0x2000 != 0 && !self.is_sanitizing()
    }
}

/// SAT-4, 12.2.2.7: the ATA status return descriptor.
fn parse_registers(sense: &[u8]) -> Option<Registers> {
    if sense.first().is_none_or(|code| code & 0x7f != 0x72) {
        return None;
    }
    let found: [u8; 14] = find_descriptor(sense, 0x09)?.get(..14)?.try_into().ok()?;
    let lba = [found[7], found[9], found[11], found[6], found[8], found[10], 0, 0];
    Some(Registers {
        error: found[3],
        status: found[13],
        count: u16::from_be_bytes([found[4], found[5]]),
        lba: u64::from_le_bytes(lba),
    })
}

/// One command; its registers, where the adapter gives them.
fn run(port: &dyn ScsiPort, command: &Command, transfer: Transfer<'_>, limit: Duration) -> Result<Option<Registers>> {
    const ERROR: u8 = 0x01;
    const DEVICE_FAULT: u8 = 0x20;
    let answer: Answer = port.execute(&command_block(command), transfer, limit)?;
    match parse_registers(&answer.sense) {
        Some(Registers { status, error, .. }) if status & (ERROR | DEVICE_FAULT) != 0 => {
            bail!("the disk aborts it with status {status:#04x}, error {error:#04x}")
        }
        Some(registers) => Ok(Some(registers)),
        None => check(&answer).map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identify_tells_sanitize_security_and_times() {
        let mut data = [0_u8; SECTOR];
        assert_eq!(parse_identify(&data), AtaAbilities::default());
        assert_eq!(parse_identify(&[]), AtaAbilities::default());
        let mut set = |word: usize, value: u16| data[word * 2..word * 2 + 2].copy_from_slice(&value.to_le_bytes());
        set(59, 0xb000);
        set(82, 0x0002);
        set(128, 0x0029);
        set(89, 0x0003);
        set(90, 0x8000 | 300);
        let expected = AtaAbilities {
            sanitize_crypto: true,
            sanitize_block: true,
            sanitize_overwrite: false,
            security: Some(Security {
                frozen: true,
                enhanced: true,
                normal_time: Some(Duration::from_secs(360)),
                enhanced_time: Some(Duration::from_secs(36_000)),
                ..Security::default()
            }),
        };
        assert_eq!(parse_identify(&data), expected);
        assert_eq!((parse_time(0), parse_time(0xff), parse_time(0xffff)), (None, None, None));
    }

    #[test]
    fn registers_are_read_from_descriptor_sense() {
        let mut sense = vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14];
        sense.extend([0x09, 0x0c, 1, 0x04, 0x40, 0x01, 0x44, 0x11, 0x55, 0x22, 0x66, 0x33, 0xa0, 0x50]);
        let registers = parse_registers(&sense).unwrap();
        assert_eq!((registers.error, registers.status, registers.count), (4, 0x50, 0x4001));
        assert_eq!(registers.lba, 0x6655_4433_2211);
        assert!(registers.is_sanitizing() && !registers.is_sanitized());
        assert_eq!(parse_registers(&sense[..20]), None);
        assert_eq!(parse_registers(&[0x70; 18]), None);
    }
}
