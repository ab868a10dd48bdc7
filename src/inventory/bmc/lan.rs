//! Where a BMC is reached.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Serialize;

use super::ipmi::{Answer, Command, IpmiError, first};

/// The parameters of a LAN channel; addresses that are all zero are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lan {
    pub channel: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_source: Option<AddressSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netmask: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Table 23-4, parameter 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    Static,
    Dhcp,
    /// By the BIOS or other software of the machine.
    Host,
    /// By another protocol of the BMC.
    Other,
}

const GET_CHANNEL_INFO: Command = Command::new(0x06, 0x42);
const GET_LAN_PARAMETERS: Command = Command::new(0x0c, 0x02);

/// The LAN of nearly all machines.
const USUAL_CHANNEL: u8 = 1;
/// Channel 0 is the bus between controllers, 0x0c and up are reserved or the system interface.
const OTHER_CHANNELS: RangeInclusive<u8> = 2..=0x0b;

/// The LAN channel that has an address; without one, the first LAN channel. An error is silence.
pub(super) fn ask(bmc: &mut impl Answer) -> Result<Option<Lan>, IpmiError> {
    let mut first_lan = answered(ask_channel(bmc, USUAL_CHANNEL))?;
    if first_lan.as_ref().is_some_and(|lan| lan.address.is_some()) {
        return Ok(first_lan);
    }
    for channel in OTHER_CHANNELS {
        if answered(ask_is_lan(bmc, channel))? != Some(true) {
            continue;
        }
        let lan = answered(ask_channel(bmc, channel))?;
        if lan.as_ref().is_some_and(|lan| lan.address.is_some()) {
            return Ok(lan);
        }
        first_lan = first_lan.or(lan);
    }
    Ok(first_lan)
}

/// A refusal is the answer "not here"; silence stays an error.
fn answered<T>(answer: Result<T, IpmiError>) -> Result<Option<T>, IpmiError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_silence() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Section 22.24: the medium is the second byte, 4 is 802.3 LAN.
fn ask_is_lan(bmc: &mut impl Answer, channel: u8) -> Result<bool, IpmiError> {
    let answer = bmc.ask(GET_CHANNEL_INFO, &[channel])?;
    let [_, medium] = first(GET_CHANNEL_INFO, &answer)?;
    Ok(medium & 0x7f == 4)
}

/// Section 23.2 and table 23-4. A channel that does not tell its MAC is no LAN.
fn ask_channel(bmc: &mut impl Answer, channel: u8) -> Result<Lan, IpmiError> {
    let mac = ask_parameter(bmc, channel, 5)?;
    let mut address = |parameter| Ok(answered(ask_parameter(bmc, channel, parameter))?.and_then(parse_address));
    let (netmask, gateway, address) = (address(6)?, address(12)?, address(3)?);
    let source = answered(ask_parameter(bmc, channel, 4))?;
    Ok(Lan {
        channel,
        address,
        address_source: source.and_then(|[source]| parse_address_source(source)),
        netmask,
        gateway,
        mac: parse_mac(mac),
    })
}

/// What follows the parameters' revision.
fn ask_parameter<const N: usize>(bmc: &mut impl Answer, channel: u8, parameter: u8) -> Result<[u8; N], IpmiError> {
    let answer = bmc.ask(GET_LAN_PARAMETERS, &[channel, parameter, 0, 0])?;
    first(GET_LAN_PARAMETERS, answer.get(1..).unwrap_or_default())
}

fn parse_address(bytes: [u8; 4]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(bytes)).filter(|address| !address.is_unspecified())
}

fn parse_mac(bytes: [u8; 6]) -> Option<String> {
    let is_set = bytes != [0; 6] && bytes != [0xff; 6];
    is_set.then(|| bytes.map(|byte| format!("{byte:02x}")).join(":"))
}

fn parse_address_source(byte: u8) -> Option<AddressSource> {
    match byte & 0x0f {
        1 => Some(AddressSource::Static),
        2 => Some(AddressSource::Dhcp),
        3 => Some(AddressSource::Host),
        4 => Some(AddressSource::Other),
        _ => None,
    }
}
