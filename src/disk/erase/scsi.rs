//! SANITIZE and FORMAT UNIT of SAS and other SCSI disks (SBC-4, SPC-5).

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::method::Method;
use super::nvme::share_of;
use super::sense::{KEY_NOT_READY, Sense, check, parse_sense};
use super::watch::Watch;
use crate::disk::block::ScsiPort;
use crate::sys::scsi::Transfer;

/// For commands that answer at once.
pub const SHORT_LIMIT: Duration = Duration::from_secs(30);
const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const FORMAT_UNIT: u8 = 0x04;
const INQUIRY: u8 = 0x12;
const SANITIZE: u8 = 0x48;
const SERVICE_ACTION_IN_16: u8 = 0x9e;
const MAINTENANCE_IN: u8 = 0xa3;

/// Service actions of SANITIZE.
const OVERWRITE: u8 = 1;
const BLOCK_ERASE: u8 = 2;
const CRYPTO_ERASE: u8 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScsiAbilities {
    pub sanitize_crypto: bool,
    pub sanitize_block: bool,
    pub sanitize_overwrite: bool,
    pub format: bool,
}

/// Whether this is an ATA disk behind a translation, of the kernel or of an adapter: its vendor is `ATA`.
pub fn is_ata(port: &dyn ScsiPort) -> Result<bool> {
    let mut data = [0_u8; 36];
    let command = [INQUIRY, 0, 0, 0, data.len() as u8, 0];
    check(&port.execute(&command, Transfer::In(&mut data), SHORT_LIMIT)?).context("INQUIRY")?;
    Ok(&data[8..16] == b"ATA     ")
}

/// What the disk says that it knows. One that does not know the question is older than SANITIZE, but every disk that is
/// no optical one must know FORMAT UNIT (SBC-4, table 33).
pub fn read_scsi_abilities(port: &dyn ScsiPort) -> ScsiAbilities {
    let sanitizes = |action| knows(port, SANITIZE, Some(action)).unwrap_or(false);
    ScsiAbilities {
        sanitize_crypto: sanitizes(CRYPTO_ERASE),
        sanitize_block: sanitizes(BLOCK_ERASE),
        sanitize_overwrite: sanitizes(OVERWRITE),
        format: knows(port, FORMAT_UNIT, None).unwrap_or(true),
    }
}

/// REPORT SUPPORTED OPERATION CODES of one command; `None` when the disk does not know that question.
fn knows(port: &dyn ScsiPort, operation: u8, service_action: Option<u8>) -> Option<bool> {
    const REPORT_OPERATION_CODES: u8 = 0x0c;
    let mut data = [0_u8; 64];
    let mut command = [0_u8; 12];
    command[0] = MAINTENANCE_IN;
    command[1] = REPORT_OPERATION_CODES;
    // 1: a command without service actions, 2: with.
    command[2] = if service_action.is_some() { 2 } else { 1 };
    command[3] = operation;
    command[5] = service_action.unwrap_or_default();
    command[9] = data.len() as u8;
    let answer = port.execute(&command, Transfer::In(&mut data), SHORT_LIMIT).ok()?;
    check(&answer).ok()?;
    // 3: as the standard has it.
    Some(data[1] & 0x7 == 3)
}

pub fn sanitize(port: &dyn ScsiPort, method: Method, watch: &Watch<'_>, size_bytes: u64) -> Result<()> {
    const IMMEDIATE: u8 = 0x80;
    /// Else a sanitize that fails leaves a disk that takes no other method.
    const UNRESTRICTED_EXIT: u8 = 0x20;
    /// Once, with four bytes of zeros.
    const ZEROS_ONCE: [u8; 8] = [1, 0, 0, 4, 0, 0, 0, 0];
    let (action, parameters) = match method {
        Method::ScsiSanitizeCrypto => (CRYPTO_ERASE, [].as_slice()),
        Method::ScsiSanitizeBlock => (BLOCK_ERASE, [].as_slice()),
        _ => (OVERWRITE, ZEROS_ONCE.as_slice()),
    };
    let mut command = [0_u8; 10];
    command[0] = SANITIZE;
    command[1] = IMMEDIATE | UNRESTRICTED_EXIT | action;
    command[8] = parameters.len() as u8;
    let transfer = if parameters.is_empty() { Transfer::None } else { Transfer::Out(parameters) };
    check(&port.execute(&command, transfer, SHORT_LIMIT)?)?;
    wait(port, watch, size_bytes)
}

/// FORMAT UNIT with the sectors and the protection that the disk has now.
pub fn format(port: &dyn ScsiPort, watch: &Watch<'_>, size_bytes: u64) -> Result<()> {
    const WITH_PARAMETERS: u8 = 0x10;
    /// A header without options but to answer at once.
    const PARAMETERS: [u8; 4] = [0, 0x02, 0, 0];
    let (information, usage) = protection(port).context("READ CAPACITY (16)")?;
    let command = [FORMAT_UNIT, information << 6 | WITH_PARAMETERS, 0, 0, 0, 0];
    let parameters = [PARAMETERS[0] | usage, PARAMETERS[1], 0, 0];
    check(&port.execute(&command, Transfer::Out(&parameters), SHORT_LIMIT)?)?;
    wait(port, watch, size_bytes)
}

/// FMTPINFO and PROTECTION FIELD USAGE that keep the type of protection (SBC-4, table 40), from READ CAPACITY (16):
/// byte 12, bit 0 whether there is one, bits 3:1 its type less one.
fn protection(port: &dyn ScsiPort) -> Result<(u8, u8)> {
    const READ_CAPACITY_16: u8 = 0x10;
    let mut data = [0_u8; 32];
    let mut command = [0_u8; 16];
    command[0] = SERVICE_ACTION_IN_16;
    command[1] = READ_CAPACITY_16;
    command[13] = data.len() as u8;
    check(&port.execute(&command, Transfer::In(&mut data), SHORT_LIMIT)?)?;
    match (data[12] & 1, data[12] >> 1 & 0x7) {
        (0, _) => Ok((0, 0)),
        (_, 0) => Ok((2, 0)),
        (_, 1) => Ok((3, 0)),
        (_, 2) => Ok((3, 1)),
        (_, other) => bail!("the disk has protection of a type that is not known: {}", other + 1),
    }
}

/// Until the disk is no longer busy with itself. Its first answers after the command may not tell of it yet; whoever
/// reads the disk then is refused, so nothing is believed too early.
fn wait(port: &dyn ScsiPort, watch: &Watch<'_>, size_bytes: u64) -> Result<()> {
    loop {
        let Some(sense) = request_sense(port)? else { break };
        if !is_working(&sense) {
            break;
        }
        watch.by_itself(share_of(size_bytes, sense.progress.unwrap_or_default()))?;
        sleep(watch.poll);
    }
    let answer = port.execute(&[TEST_UNIT_READY, 0, 0, 0, 0, 0], Transfer::None, SHORT_LIMIT)?;
    match parse_sense(&answer.sense).map(|sense| sense.code) {
        Some((0x31, 0x03)) => bail!("the disk reports that its sanitize failed"),
        Some((0x31, 0x01)) => bail!("the disk reports that its format failed"),
        _ => check(&answer),
    }
}

/// Format (04/04) or sanitize (04/1B) in progress.
fn is_working(sense: &Sense) -> bool {
    matches!(sense.code, (0x04, 0x04 | 0x1b)) && (sense.key == KEY_NOT_READY || sense.key == 0)
}

fn request_sense(port: &dyn ScsiPort) -> Result<Option<Sense>> {
    let mut data = [0_u8; 64];
    let command = [REQUEST_SENSE, 0, 0, 0, data.len() as u8, 0];
    check(&port.execute(&command, Transfer::In(&mut data), SHORT_LIMIT)?).context("REQUEST SENSE")?;
    Ok(parse_sense(&data))
}
