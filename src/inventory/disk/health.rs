//! How a disk feels, by its own words.

use schemars::JsonSchema;
use serde::Serialize;

/// What a disk says of its health. Of an ATA disk only [`Self::failing`] is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Health {
    /// The disk expects to fail, or has: an NVMe critical warning, an ATA attribute beyond its threshold.
    pub failing: bool,
    /// NVMe: bits of the critical warning.
    pub critical_warnings: Vec<CriticalWarning>,
    /// NVMe: estimate of the life that is used up; may exceed 100, and stops at 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_used: Option<u8>,
    /// NVMe: spare blocks that are left, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_spare_percent: Option<u8>,
    /// NVMe: below this the disk warns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spare_threshold_percent: Option<u8>,
    /// NVMe: errors of the medium or the data on it that could not be mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_on_hours: Option<u64>,
    /// NVMe: power went away without notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsafe_shutdowns: Option<u64>,
}

/// NVM Express base specification 2.0, figure 207, byte 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CriticalWarning {
    SpareBelowThreshold,
    Temperature,
    ReliabilityDegraded,
    ReadOnly,
    VolatileMemoryBackupFailed,
    PersistentMemoryUnreliable,
}

const CRITICAL_WARNINGS: [CriticalWarning; 6] = [
    CriticalWarning::SpareBelowThreshold,
    CriticalWarning::Temperature,
    CriticalWarning::ReliabilityDegraded,
    CriticalWarning::ReadOnly,
    CriticalWarning::VolatileMemoryBackupFailed,
    CriticalWarning::PersistentMemoryUnreliable,
];

impl CriticalWarning {
    /// A warm disk is not a failing one.
    fn means_failure(self) -> bool {
        match self {
            Self::Temperature => false,
            Self::SpareBelowThreshold
            | Self::ReliabilityDegraded
            | Self::ReadOnly
            | Self::VolatileMemoryBackupFailed
            | Self::PersistentMemoryUnreliable => true,
        }
    }
}

/// The SMART / health information log page (NVM Express base specification 2.0, 5.16.1.3).
pub(super) fn parse_nvme_log(page: &[u8]) -> Option<Health> {
    let warnings = *page.first()?;
    let bits = CRITICAL_WARNINGS.into_iter().enumerate();
    let critical_warnings: Vec<CriticalWarning> =
        bits.filter(|(bit, _)| warnings >> bit & 1 == 1).map(|(_, warning)| warning).collect();
    // Kelvin; zero where the controller has no sensor.
    let kelvin = u16::from_le_bytes(page.get(1..3)?.try_into().ok()?);
    Some(Health {
        failing: critical_warnings.iter().any(|warning| warning.means_failure()),
        critical_warnings,
        percentage_used: page.get(5).copied(),
        available_spare_percent: page.get(3).copied(),
        spare_threshold_percent: page.get(4).copied(),
        media_errors: Some(counter(page, 160)?),
        temperature_celsius: (kelvin > 0).then(|| i32::from(kelvin) - 273),
        power_on_hours: Some(counter(page, 128)?),
        unsafe_shutdowns: Some(counter(page, 144)?),
    })
}

/// Counters have 16 bytes, of which no disk has filled more than eight.
fn counter(page: &[u8], offset: usize) -> Option<u64> {
    let count = u128::from_le_bytes(page.get(offset..offset + 16)?.try_into().ok()?);
    Some(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Whether an ATA disk says that a threshold is exceeded, from the registers that SMART RETURN STATUS leaves in the
/// sense data (SAT-4, 12.2.2.6 and table 209; ACS-4, 9.26): LBA 4F/C2 is fine, F4/2C is not. `None` when the answer is
/// neither, as from a bridge that does not pass it on.
pub(super) fn parse_ata_status(sense: &[u8]) -> Option<Health> {
    let (middle, high) = match sense.first()? & 0x7f {
        // Descriptor format: the ATA status return descriptor.
        0x72 | 0x73 => {
            let descriptor = sense.get(8..22)?;
            (descriptor.first()? == &0x09).then_some(())?;
            (*descriptor.get(9)?, *descriptor.get(11)?)
        }
        // Fixed format: in the command specific information.
        0x70 | 0x71 => (*sense.get(10)?, *sense.get(11)?),
        _ => return None,
    };
    let failing = match (middle, high) {
        (0x4f, 0xc2) => false,
        (0xf4, 0x2c) => true,
        _ => return None,
    };
    Some(Health { failing, ..Health::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a disk with 2 % of its life used up answers, the reserved bytes left out.
    fn log() -> Vec<u8> {
        let mut page = vec![0_u8; 512];
        page[..6].copy_from_slice(&[0x00, 0x3a, 0x01, 100, 10, 2]);
        page[128..132].copy_from_slice(&8760_u32.to_le_bytes());
        page[144] = 23;
        page[160] = 1;
        page
    }

    #[test]
    fn an_nvme_disk_in_good_health() {
        let health = parse_nvme_log(&log()).expect("a log page");
        let expected = Health {
            failing: false,
            critical_warnings: Vec::new(),
            percentage_used: Some(2),
            available_spare_percent: Some(100),
            spare_threshold_percent: Some(10),
            media_errors: Some(1),
            temperature_celsius: Some(41),
            power_on_hours: Some(8760),
            unsafe_shutdowns: Some(23),
        };
        assert_eq!(health, expected);
    }

    #[test]
    fn critical_warnings_are_named_and_heat_alone_is_no_failure() {
        let warned = |bits| {
            let mut page = log();
            page[0] = bits;
            let health = parse_nvme_log(&page).expect("a log page");
            (health.failing, health.critical_warnings)
        };
        assert_eq!(warned(0x02), (false, vec![CriticalWarning::Temperature]));
        assert_eq!(warned(0x09), (true, vec![CriticalWarning::SpareBelowThreshold, CriticalWarning::ReadOnly]));
        assert_eq!(warned(0xc0), (false, Vec::new()), "reserved bits");
    }

    #[test]
    fn counters_beyond_64_bits_stay_at_the_largest_and_a_stump_is_no_log() {
        let mut page = log();
        page[160..176].fill(0xff);
        assert_eq!(parse_nvme_log(&page).and_then(|health| health.media_errors), Some(u64::MAX));
        assert_eq!(parse_nvme_log(&page[..100]), None);
        assert_eq!(parse_nvme_log(&[]), None);
    }

    #[test]
    fn an_ata_disk_says_whether_it_is_failing_in_both_formats_of_sense_data() {
        let descriptor = |middle, high| {
            vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14, 0x09, 12, 0, 0, 0, 0, 0, 0, 0, middle, 0, high, 0xa0, 0x50]
        };
        let fixed = |middle, high| vec![0x70, 0, 1, 0, 0x50, 0xa0, 0, 10, 0, 0, middle, high, 0, 0x1d, 0, 0, 0, 0];
        let failing = |sense: &[u8]| parse_ata_status(sense).map(|health| health.failing);
        assert_eq!(failing(&descriptor(0x4f, 0xc2)), Some(false));
        assert_eq!(failing(&descriptor(0xf4, 0x2c)), Some(true));
        assert_eq!(failing(&fixed(0x4f, 0xc2)), Some(false));
        assert_eq!(failing(&fixed(0xf4, 0x2c)), Some(true));
        assert_eq!(failing(&descriptor(0, 0)), None, "a bridge that lost the registers");
        assert_eq!(failing(&descriptor(0x4f, 0xc2)[..20]), None);
        assert_eq!(failing(&[]), None);
    }
}
