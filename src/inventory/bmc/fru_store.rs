//! Reads FRU 0, the machine itself, out of the BMC's memory.

use super::fru::{self, Fru};
use super::ipmi::{Answer, Command, IpmiError, first};
use super::told;

const GET_AREA_INFO: Command = Command::new(0x0a, 0x10);
const READ_DATA: Command = Command::new(0x0a, 0x11);
const MACHINE: u8 = 0;

/// Fills `fru` with all areas that can be read and are whole. An error is silence.
pub(super) fn ask(bmc: &mut impl Answer, fru: &mut Fru, warnings: &mut Vec<String>) -> Result<(), IpmiError> {
    let Some(mut store) = told(FruStore::open(bmc), warnings)? else { return Ok(()) };
    let Some(header) = told(store.read(0, fru::HEADER_BYTES), warnings)? else { return Ok(()) };
    let areas = fru::parse_header(&header).unwrap_or_else(|error| {
        warnings.push(format!("BMC: {error}"));
        Vec::new()
    });
    for (area, offset) in areas {
        let Some(bytes) = told(store.read_area(offset), warnings)? else { continue };
        if let Err(error) = fru.parse_area(area, &bytes) {
            warnings.push(format!("BMC: {error}"));
        }
    }
    Ok(())
}

/// The memory that FRU 0 lies in.
struct FruStore<'a, B> {
    bmc: &'a mut B,
    /// Its length in bytes.
    length: u16,
    /// 2 when it counts words.
    unit: u16,
    /// Bytes asked for at once.
    chunk: u16,
}

impl<'a, B: Answer> FruStore<'a, B> {
    /// Section 34.1.
    fn open(bmc: &'a mut B) -> Result<Self, IpmiError> {
        let answer = bmc.ask(GET_AREA_INFO, &[MACHINE])?;
        let [low, high, access] = first(GET_AREA_INFO, &answer)?;
        Ok(Self { bmc, length: u16::from_le_bytes([low, high]), unit: 1 + u16::from(access & 1), chunk: 16 })
    }

    /// An area, whose length is told by its beginning.
    fn read_area(&mut self, offset: u16) -> Result<Vec<u8>, IpmiError> {
        let mut bytes = self.read(offset, fru::HEADER_BYTES)?;
        let length = fru::area_length(&bytes);
        bytes.extend(self.read(offset.saturating_add(fru::HEADER_BYTES), length.saturating_sub(fru::HEADER_BYTES))?);
        Ok(bytes)
    }

    /// As many of the bytes as the memory has.
    fn read(&mut self, offset: u16, count: u16) -> Result<Vec<u8>, IpmiError> {
        let end = offset.saturating_add(count).min(self.length);
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let chunk = self.read_chunk(at, end - at)?;
            let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
            if length == 0 {
                break;
            }
            bytes.extend(chunk);
            at = at.saturating_add(length);
        }
        bytes.truncate(usize::from(count));
        Ok(bytes)
    }

    /// Section 34.2. Some BMCs have no room for a whole chunk, so it is halved when they say so.
    fn read_chunk(&mut self, offset: u16, count: u16) -> Result<Vec<u8>, IpmiError> {
        /// "Request data length invalid", "limit exceeded", "cannot return number of requested data bytes".
        const TOO_MUCH: [u8; 3] = [0xc7, 0xc8, 0xca];
        loop {
            let [low, high] = (offset / self.unit).to_le_bytes();
            let units = u8::try_from(count.min(self.chunk).div_ceil(self.unit)).unwrap_or(u8::MAX);
            match self.bmc.ask(READ_DATA, &[MACHINE, low, high, units]) {
                Err(IpmiError::Refused { code, .. }) if TOO_MUCH.contains(&code) && self.chunk > 2 => self.chunk /= 2,
                Err(error) => return Err(error),
                Ok(answer) => {
                    let (&units, data) = answer.split_first().unwrap_or((&0, &[]));
                    let length = usize::from(units) * usize::from(self.unit);
                    return Ok(data.get(..length).unwrap_or(data).to_vec());
                }
            }
        }
    }
}
