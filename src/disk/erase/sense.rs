//! Sense data: why a SCSI device refuses, and how far it is (SPC-5, 4.4).

use anyhow::{Result, bail};

use crate::sys::scsi::Answer;

/// NOT READY.
pub const KEY_NOT_READY: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    pub key: u8,
    /// Additional sense code and its qualifier.
    pub code: (u8, u8),
    /// Of a command that runs by itself, in 65536ths.
    pub progress: Option<u16>,
}

/// `None` when there is none, or in a format that is none.
pub fn parse_sense(sense: &[u8]) -> Option<Sense> {
    let at = |offset: usize| sense.get(offset).copied().unwrap_or_default();
    let word = |offset: usize| u16::from_be_bytes([at(offset), at(offset + 1)]);
    match at(0) & 0x7f {
        0x70 | 0x71 => {
            let progress = (at(15) & 0x80 != 0).then(|| word(16));
            Some(Sense { key: at(2) & 0xf, code: (at(12), at(13)), progress })
        }
        0x72 | 0x73 => {
            let specific = find_descriptor(sense, 0x02).unwrap_or_default();
            let byte = |offset: usize| specific.get(offset).copied().unwrap_or_default();
            let progress = (byte(4) & 0x80 != 0).then(|| u16::from_be_bytes([byte(5), byte(6)]));
            Some(Sense { key: at(1) & 0xf, code: (at(2), at(3)), progress })
        }
        _ => None,
    }
}

/// A descriptor of descriptor sense, with its head of two bytes.
pub fn find_descriptor(sense: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = sense.get(8..)?;
    while let [found, length, ..] = *rest {
        let end = (usize::from(length) + 2).min(rest.len());
        if found == kind {
            return rest.get(..end);
        }
        rest = rest.get(end..)?;
    }
    None
}

/// An error that tells what the device said, unless it took the command.
pub fn check(answer: &Answer) -> Result<()> {
    if answer.status == 0 {
        return Ok(());
    }
    match parse_sense(&answer.sense) {
        // NO SENSE and RECOVERED ERROR.
        Some(sense) if answer.status == 2 && sense.key <= 1 => Ok(()),
        Some(Sense { key, code: (code, qualifier), .. }) => {
            bail!("the disk answers with sense {key:x}/{code:02x}/{qualifier:02x}{}", meaning(key, code))
        }
        None => bail!("the disk answers with status {:#04x}", answer.status),
    }
}

fn meaning(key: u8, code: u8) -> &'static str {
    match (key, code) {
        (5, 0x20) => " (it does not know the command)",
        (5, 0x24) => " (it does not take the command like this)",
        (5, _) => " (it refuses)",
        (7, _) => " (protected)",
        (2, _) => " (not ready)",
        (3, _) => " (defect medium)",
        (0xb, _) => " (it aborted the command)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_tell_key_code_and_progress() {
        let mut fixed = [0_u8; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13], fixed[15], fixed[16]) = (0x70, 2, 4, 0x1b, 0x80, 0x40);
        let expected = Sense { key: 2, code: (4, 0x1b), progress: Some(0x4000) };
        assert_eq!(parse_sense(&fixed), Some(expected));
        let descriptor = [0x72, 2, 4, 0x1b, 0, 0, 0, 12, 9, 2, 0, 0, 2, 6, 0, 0, 0x80, 0x40, 0, 0];
        assert_eq!(parse_sense(&descriptor), Some(expected));
        assert_eq!(parse_sense(&descriptor[..12]), Some(Sense { progress: None, ..expected }));
        assert_eq!(parse_sense(&[]), None);
    }

    #[test]
    fn a_refusal_is_told() {
        let sense = vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0];
        let error = check(&Answer { status: 2, sense }).unwrap_err().to_string();
        assert_eq!(error, "the disk answers with sense 5/20/00 (it does not know the command)");
        assert!(check(&Answer { status: 8, sense: vec![] }).is_err());
        assert!(check(&Answer::default()).is_ok());
    }
}
