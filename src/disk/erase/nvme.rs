//! Format NVM and Sanitize (NVM Express base specification 2.0 and NVM command set specification 1.0).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::method::Method;
use super::watch::Watch;
use crate::disk::block::NvmePort;
use crate::sys::nvme::Identify;

/// Sanitize answers when it has begun.
const SANITIZE_LIMIT: Duration = Duration::from_secs(60);

/// What a controller can do and whom it would do it to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeAbilities {
    pub format: bool,
    pub crypto_format: bool,
    /// A format of one namespace is one of all.
    pub format_reaches_all: bool,
    /// All namespaces can't be named in one by the id for all.
    pub no_broadcast: bool,
    pub sanitize_crypto: bool,
    pub sanitize_block: bool,
    /// Ids of the namespaces that the controller shows.
    pub attached: BTreeSet<u32>,
    /// Ids of those that were made and are not attached to this controller, so no disk shows them. They can be
    /// another host's.
    pub unattached: BTreeSet<u32>,
}

/// What the disks of one controller share: one command may reach all of them.
#[derive(Debug, Default)]
pub struct Siblings {
    /// Ids of the namespaces that are being erased.
    pub namespaces: BTreeSet<u32>,
    /// What was done to all of them by one command.
    done: RefCell<BTreeSet<Method>>,
}

impl Siblings {
    pub fn of(namespaces: BTreeSet<u32>) -> Self {
        Self { namespaces, done: RefCell::default() }
    }
}

pub fn read_nvme_abilities(port: &dyn NvmePort) -> Result<NvmeAbilities> {
    let controller = port.identify(0, Identify::Controller).context("identifying the controller")?;
    let mut abilities = parse_controller(&controller);
    let attached = port.identify(0, Identify::AttachedNamespaces).context("listing the namespaces")?;
    abilities.attached = parse_list(&attached);
    // Controllers without namespace management do not answer this, and then there are no others.
    if let Ok(allocated) = port.identify(0, Identify::AllocatedNamespaces) {
        abilities.unattached = parse_list(&allocated).difference(&abilities.attached).copied().collect();
    }
    Ok(abilities)
}

/// Identify Controller, figure 275: OACS at 256 (bit 1: Format NVM), SANICAP at 328 (bit 0: crypto, 1: block erase),
/// FNA at 524 (bit 0: format, 1: secure erase reaches all namespaces, 2: crypto erase, 3: no id for all).
fn parse_controller(controller: &[u8]) -> NvmeAbilities {
    let bit = |offset: usize, bit: u8| controller.get(offset).is_some_and(|byte| byte >> bit & 1 == 1);
    let format = bit(256, 1);
    NvmeAbilities {
        format,
        crypto_format: format && bit(524, 2),
        format_reaches_all: bit(524, 0) || bit(524, 1),
        no_broadcast: bit(524, 3),
        sanitize_crypto: bit(328, 0),
        sanitize_block: bit(328, 1),
        attached: BTreeSet::new(),
        unattached: BTreeSet::new(),
    }
}

/// Little-endian ids up to the first zero.
fn parse_list(list: &[u8]) -> BTreeSet<u32> {
    let ids = list.chunks_exact(4).filter_map(|id| Some(u32::from_le_bytes(id.try_into().ok()?)));
    ids.take_while(|id| *id != 0).collect()
}

/// Formats the namespace, or once all of the controller where it can't do less.
pub fn format(
    port: &dyn NvmePort,
    abilities: &NvmeAbilities,
    siblings: &Siblings,
    method: Method,
    watch: &Watch<'_>,
) -> Result<()> {
    const ALL: u32 = u32::MAX;
    let secure_erase = match method {
        Method::NvmeFormatCrypto => SecureErase::Crypto,
        _ => SecureErase::UserData,
    };
    let limit = method.limit().unwrap_or(SANITIZE_LIMIT);
    let own = port.namespace_id().context("asking for the namespace's id")?;
    let namespace = if abilities.format_reaches_all {
        if siblings.done.borrow().contains(&method) {
            return Ok(());
        }
        check_reach(abilities, siblings)?;
        if abilities.no_broadcast { own } else { ALL }
    } else {
        own
    };
    let identified = port.identify(own, Identify::Namespace).context("identifying the namespace")?;
    watch.silent(limit, None);
    port.format(namespace, format_dword(&identified, secure_erase), limit)?;
    if abilities.format_reaches_all {
        siblings.done.borrow_mut().insert(method);
    }
    Ok(())
}

/// Sanitize reaches all namespaces always.
pub fn sanitize(
    port: &dyn NvmePort,
    abilities: &NvmeAbilities,
    siblings: &Siblings,
    method: Method,
    watch: &Watch<'_>,
    size_bytes: u64,
) -> Result<()> {
    const BLOCK_ERASE: u32 = 2;
    const CRYPTO_ERASE: u32 = 4;
    /// Else a sanitize that fails leaves a controller that takes no other method.
    const UNRESTRICTED_EXIT: u32 = 1 << 3;
    if siblings.done.borrow().contains(&method) {
        return Ok(());
    }
    check_reach(abilities, siblings)?;
    let action = if method == Method::NvmeSanitizeCrypto { CRYPTO_ERASE } else { BLOCK_ERASE };
    port.sanitize(action | UNRESTRICTED_EXIT, SANITIZE_LIMIT)?;
    let status = wait_for_sanitize(port, watch, size_bytes)?;
    match status {
        Sanitize::Completed => {
            siblings.done.borrow_mut().insert(method);
            Ok(())
        }
        Sanitize::Failed => {
            leave_failure_mode(port).context("it failed, and its failure mode can't be left")?;
            bail!("the controller reports that it failed")
        }
        Sanitize::Never => bail!("the controller took the command and did not begin"),
        Sanitize::InProgress { .. } => bail!("it did not end"),
    }
}

/// After a sanitize that failed the controller takes nothing else.
pub fn leave_failure_mode(port: &dyn NvmePort) -> Result<()> {
    const EXIT_FAILURE_MODE: u32 = 1;
    Ok(port.sanitize(EXIT_FAILURE_MODE, SANITIZE_LIMIT)?)
}

fn check_reach(abilities: &NvmeAbilities, siblings: &Siblings) -> Result<()> {
    let others: Vec<String> = abilities.attached.difference(&siblings.namespaces).map(ToString::to_string).collect();
    if !others.is_empty() {
        bail!("it would also reach namespace {}, which is not being erased", others.join(", "));
    }
    if !abilities.unattached.is_empty() {
        bail!("it would also reach namespaces of the controller that are not attached to it");
    }
    Ok(())
}

/// Waits for a sanitize that runs: ours, or one that a power cut broke off, which the controller takes up again.
pub fn wait_for_sanitize(port: &dyn NvmePort, watch: &Watch<'_>, size_bytes: u64) -> Result<Sanitize> {
    loop {
        let status = parse_sanitize_log(&port.sanitize_log().context("reading the sanitize log")?);
        let Sanitize::InProgress { share } = status else { return Ok(status) };
        watch.by_itself(share_of(size_bytes, share))?;
        sleep(watch.poll);
    }
}

/// `share` in 65536ths.
pub fn share_of(size_bytes: u64, share: u16) -> u64 {
    // A 65536th at a time does not overflow.
    size_bytes / 65536 * u64::from(share)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitize {
    Never,
    Completed,
    /// In 65536ths.
    InProgress {
        share: u16,
    },
    Failed,
}

/// Log page 81h: SPROG at 0, SSTAT at 2 (bits 2:0).
fn parse_sanitize_log(log: &[u8]) -> Sanitize {
    let word = |offset: usize| {
        let bytes = log.get(offset..offset + 2).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u16::from_le_bytes)
    };
    match word(2) & 0x7 {
        1 | 4 => Sanitize::Completed,
        2 => Sanitize::InProgress { share: word(0) },
        3 => Sanitize::Failed,
        _ => Sanitize::Never,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecureErase {
    UserData = 1,
    Crypto = 2,
}

/// Dword 10 of Format NVM: the format as it is (FLBAS at 26, DPS at 29 of the namespace), with secure erase.
fn format_dword(namespace: &[u8], secure_erase: SecureErase) -> u32 {
    let at = |offset: usize| u32::from(namespace.get(offset).copied().unwrap_or_default());
    let (flbas, dps) = (at(26), at(29));
    let (index_low, metadata_inline, index_high) = (flbas & 0xf, flbas >> 4 & 1, flbas >> 5 & 3);
    let (protection, protection_first) = (dps & 0x7, dps >> 3 & 1);
    let secure_erase = (secure_erase as u32) << 9;
    index_low | metadata_inline << 4 | protection << 5 | protection_first << 8 | secure_erase | index_high << 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::nvme::IDENTIFY_BYTES;

    #[test]
    fn format_keeps_the_sector_format_and_protection() {
        let mut namespace = [0_u8; IDENTIFY_BYTES];
        assert_eq!(format_dword(&namespace, SecureErase::UserData), 0x200);
        assert_eq!(format_dword(&namespace, SecureErase::Crypto), 0x400);
        namespace[26] = 0b0101_0011;
        namespace[29] = 0b1010;
        assert_eq!(format_dword(&namespace, SecureErase::UserData), 0x2000 | 0x200 | 0x100 | 2 << 5 | 0x10 | 3);
    }

    #[test]
    fn a_controller_tells_what_it_can_do() {
        let mut controller = [0_u8; IDENTIFY_BYTES];
        assert_eq!(parse_controller(&controller), NvmeAbilities::default());
        assert_eq!(parse_controller(&[]), NvmeAbilities::default());
        controller[256] = 0x2;
        controller[524] = 0b1110;
        controller[328] = 0b11;
        let expected = NvmeAbilities {
            format: true,
            crypto_format: true,
            format_reaches_all: true,
            no_broadcast: true,
            sanitize_crypto: true,
            sanitize_block: true,
            ..NvmeAbilities::default()
        };
        assert_eq!(parse_controller(&controller), expected);
    }

    #[test]
    fn the_sanitize_log_tells_how_far_it_is() {
        assert_eq!(parse_sanitize_log(&[]), Sanitize::Never);
        assert_eq!(parse_sanitize_log(&[0xff, 0xff, 0x01, 0x01]), Sanitize::Completed);
        assert_eq!(parse_sanitize_log(&[0x00, 0x80, 0x02, 0]), Sanitize::InProgress { share: 0x8000 });
        assert_eq!(parse_sanitize_log(&[0, 0, 0x03, 0]), Sanitize::Failed);
        assert_eq!(share_of(1 << 40, 0x8000), 1 << 39);
    }
}
