//! TFTP packets (RFC 1350) with options (RFC 2347, 2348, 2349).

use std::time::Duration;

/// Largest block sent: with its headers it fits an Ethernet frame. Larger ones would be fragmented, which PXE ROMs
/// often cannot put together, whatever they ask for.
pub const MAX_BLOCK_SIZE: u16 = 1468;
const DEFAULT_BLOCK_SIZE: u16 = 512;
const MIN_BLOCK_SIZE: u16 = 8;

/// Error codes (RFC 1350 section 5, RFC 2347).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
}

/// A read request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub file: String,
    pub options: Options,
}

/// The options a client asked for, as far as we grant them. `None`: not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Already within our limits.
    pub block_size: Option<u16>,
    pub timeout: Option<Duration>,
    pub wants_size: bool,
}

impl Options {
    pub fn block_size(self) -> usize {
        usize::from(self.block_size.unwrap_or(DEFAULT_BLOCK_SIZE))
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a client can send to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Read(ReadRequest),
    Ack(u16),
    /// The client ends the transfer.
    Error {
        code: u16,
        message: String,
    },
}

/// Why a packet is not taken; the text goes back to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("read only")]
    Write,
    #[error("mode {0:?} is not known")]
    Mode(String),
    #[error("not a TFTP packet")]
    Malformed,
}

impl Packet {
    pub fn parse(packet: &[u8]) -> Result<Self, ParseError> {
        let Some((opcode, rest)) = packet.split_first_chunk::<2>() else { return Err(ParseError::Malformed) };
        match u16::from_be_bytes(*opcode) {
            1 => parse_read(rest).map(Self::Read),
            2 => Err(ParseError::Write),
            4 => match rest {
                [high, low, ..] => Ok(Self::Ack(u16::from_be_bytes([*high, *low]))),
                _ => Err(ParseError::Malformed),
            },
            5 => match rest {
                [high, low, text @ ..] => {
                    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                    let message = String::from_utf8_lossy(text).into_owned();
                    Ok(Self::Error { code: u16::from_be_bytes([*high, *low]), message })
                }
                _ => Err(ParseError::Malformed),
            },
            _ => Err(ParseError::Malformed),
        }
    }
}

/// `netascii` gets the same bytes as `octet`: the files are programs, and no client means otherwise.
fn parse_read(rest: &[u8]) -> Result<ReadRequest, ParseError> {
    let mut texts =
        rest.split(|byte| *byte == 0).map(|text| std::str::from_utf8(text).map_err(|_| ParseError::Malformed));
    let mut next = || texts.next().unwrap_or(Err(ParseError::Malformed));
    let (file, mode) = (next()?.to_owned(), next()?.to_ascii_lowercase());
    if mode != "octet" && mode != "netascii" {
        return Err(ParseError::Mode(mode));
    }
    let mut options = Options::default();
    while let (Ok(name), Ok(value)) = (next(), next()) {
        set_option(&mut options, name, value);
    }
    Ok(ReadRequest { file, options })
}

/// Unknown and malformed options are passed over, which tells the client that they are not granted (RFC 2347).
fn set_option(options: &mut Options, name: &str, value: &str) {
    let Ok(value) = value.parse::<u64>() else { return };
    match name.to_ascii_lowercase().as_str() {
        "blksize" if value >= u64::from(MIN_BLOCK_SIZE) => {
            options.block_size = Some(value.min(u64::from(MAX_BLOCK_SIZE)) as u16);
        }
        "timeout" if (1..=255).contains(&value) => options.timeout = Some(Duration::from_secs(value)),
        "tsize" => options.wants_size = true,
        _ => {}
    }
}

/// The acknowledgement of options; `None` when there are none, so that data follows at once.
pub fn encode_option_ack(options: Options, size_bytes: u64) -> Option<Vec<u8>> {
    if options.is_empty() {
        return None;
    }
    let mut out = vec![0, 6];
    let mut put = |name: &str, value: u64| {
        for text in [name, &value.to_string()] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    };
    if let Some(size) = options.block_size {
        put("blksize", u64::from(size));
    }
    if let Some(timeout) = options.timeout {
        put("timeout", timeout.as_secs());
    }
    if options.wants_size {
        put("tsize", size_bytes);
    }
    Some(out)
}

pub fn encode_data(block: u16, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + data.len());
    out.extend_from_slice(&[0, 3]);
    out.extend_from_slice(&block.to_be_bytes());
    out.extend_from_slice(data);
    out
}

pub fn encode_error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut out = vec![0, 5, 0, code as u8];
    out.extend_from_slice(message.as_bytes());
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_request_with_the_options_of_a_pxe_rom() {
        let packet = b"\0\x0102:00:00:00:00:01/0\0OCTET\0tsize\x00000\0BLKSIZE\x001456\0windowsize\x004\0";
        let Ok(Packet::Read(request)) = Packet::parse(packet) else { panic!("not a read request") };
        assert_eq!(request.file, "02:00:00:00:00:01/0");
        assert_eq!(request.options, Options { block_size: Some(1456), timeout: None, wants_size: true });
        assert_eq!(encode_option_ack(request.options, 74213).unwrap(), b"\0\x06blksize\x001456\0tsize\x0074213\0");
    }

    #[test]
    fn a_plain_request_has_no_options_and_blocks_of_512() {
        let Ok(Packet::Read(request)) = Packet::parse(b"\0\x01ipxe.efi\0octet\0") else { panic!("not a read request") };
        assert_eq!(encode_option_ack(request.options, 1), None);
        assert_eq!(request.options.block_size(), 512);
    }

    #[test]
    fn block_sizes_are_kept_within_a_frame() {
        for (asked, granted) in [("65464", Some(1468)), ("8", Some(8)), ("7", None), ("-1", None), ("x", None)] {
            let mut options = Options::default();
            set_option(&mut options, "blksize", asked);
            assert_eq!(options.block_size, granted, "{asked}");
        }
    }

    #[test]
    fn refuses_writes_and_strange_modes() {
        assert_eq!(Packet::parse(b"\0\x02x\0octet\0"), Err(ParseError::Write));
        assert_eq!(Packet::parse(b"\0\x01x\0mail\0"), Err(ParseError::Mode("mail".into())));
        assert_eq!(Packet::parse(b"\0\x01x"), Err(ParseError::Malformed));
        assert_eq!(Packet::parse(b"\0\x05\0\0stop\0"), Ok(Packet::Error { code: 0, message: "stop".into() }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), opcode in 0u8..8) {
            let mut packet = vec![0, opcode];
            packet.extend_from_slice(&bytes);
            if let Ok(Packet::Read(request)) = Packet::parse(&packet) {
                prop_assert!((8..=1468).contains(&request.options.block_size()));
            }
        }
    }
}
