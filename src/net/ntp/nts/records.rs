//! Records of the key exchange (RFC 8915 section 4), as bytes and as values. Pure.

use super::{AES_SIV_CMAC_256, NTP_V4, NtsError};

const CRITICAL: u16 = 0x8000;

const END_OF_MESSAGE: u16 = 0;
const NEXT_PROTOCOL: u16 = 1;
const ERROR: u16 = 2;
const WARNING: u16 = 3;
const ALGORITHM: u16 = 4;
const NEW_COOKIE: u16 = 5;
const NTP_SERVER: u16 = 6;
const NTP_PORT: u16 = 7;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whoever does not know it must give up.
    pub critical: bool,
    pub kind: u16,
    pub body: Vec<u8>,
}

impl Record {
    pub fn new(critical: bool, kind: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { critical, kind, body: body.into() }
    }

    /// Body of one number.
    fn number(&self) -> Option<u16> {
        self.body.as_slice().try_into().ok().map(u16::from_be_bytes)
    }
}

/// What the client says.
pub(super) fn question() -> Vec<u8> {
    render_records(&[
        Record::new(true, NEXT_PROTOCOL, NTP_V4.to_be_bytes()),
        Record::new(true, ALGORITHM, AES_SIV_CMAC_256.to_be_bytes()),
        Record::new(true, END_OF_MESSAGE, Vec::new()),
    ])
}

/// Bodies of more than 65535 bytes are cut off; nobody has any.
pub fn render_records(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let kind = record.kind | if record.critical { CRITICAL } else { 0 };
        let len = u16::try_from(record.body.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend(record.body.iter().take(usize::from(len)));
    }
    bytes
}

/// The records up to the end of the message; `None` when there is more to come.
pub fn parse_records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    loop {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let [k0, k1, l0, l1] = *head;
        let kind = u16::from_be_bytes([k0, k1]);
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        let record = Record::new(kind & CRITICAL != 0, kind & !CRITICAL, body);
        if record.kind == END_OF_MESSAGE {
            return Some(records);
        }
        records.push(record);
        bytes = rest;
    }
}

/// What server and client have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreement {
    pub cookies: Vec<Vec<u8>>,
    /// Who tells the time, if not the host of the key exchange.
    pub server: Option<String>,
    pub port: Option<u16>,
}

/// Checks the server's records.
pub(super) fn read_agreement(records: &[Record]) -> Result<Agreement, NtsError> {
    let mut agreement = Agreement::default();
    let (mut protocol, mut algorithm) = (None, None);
    for record in records {
        match record.kind {
            NEXT_PROTOCOL => protocol = record.number(),
            ALGORITHM => algorithm = record.number(),
            ERROR => return Err(NtsError::Refused(record.number().unwrap_or(u16::MAX))),
            NEW_COOKIE => agreement.cookies.push(record.body.clone()),
            NTP_SERVER => {
                let name = std::str::from_utf8(&record.body).ok().filter(|name| !name.is_empty() && name.is_ascii());
                agreement.server = Some(name.ok_or(NtsError::Malformed("names a server that is no text"))?.to_owned());
            }
            NTP_PORT => agreement.port = record.number(),
            WARNING => return Err(NtsError::Malformed("has a warning, and none is defined")),
            _ if record.critical => return Err(NtsError::Malformed("has a critical record that we do not know")),
            _ => {}
        }
    }
    if protocol != Some(NTP_V4) {
        return Err(NtsError::Malformed("does not agree on NTPv4"));
    }
    if algorithm != Some(AES_SIV_CMAC_256) {
        return Err(NtsError::Malformed("does not agree on AEAD_AES_SIV_CMAC_256"));
    }
    if agreement.cookies.is_empty() {
        return Err(NtsError::Malformed("has no cookie"));
    }
    Ok(agreement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<Record> {
        vec![
            Record::new(true, NEXT_PROTOCOL, [0, 0]),
            Record::new(true, ALGORITHM, [0, 15]),
            Record::new(false, NEW_COOKIE, *b"one"),
            Record::new(false, NEW_COOKIE, *b"two"),
            Record::new(true, NTP_SERVER, *b"10.1.0.1"),
            Record::new(true, NTP_PORT, [4, 99]),
        ]
    }

    #[test]
    fn the_question_is_three_records() {
        assert_eq!(hex::encode(question()), "80010002000080040002000f80000000");
    }

    #[test]
    fn an_answer_is_read_when_its_end_is_there() {
        let mut records = good();
        records.push(Record::new(true, END_OF_MESSAGE, Vec::new()));
        let bytes = render_records(&records);
        for cut in 0..bytes.len() {
            assert_eq!(parse_records(&bytes[..cut]), None);
        }
        assert_eq!(parse_records(&bytes), Some(good()));
        let agreement = read_agreement(&good()).unwrap();
        assert_eq!(agreement.cookies, [b"one", b"two"]);
        assert_eq!((agreement.server.as_deref(), agreement.port), (Some("10.1.0.1"), Some(1123)));
    }

    #[test]
    fn what_is_missing_or_unknown_is_an_error() {
        let without = |kind: u16| good().into_iter().filter(|record| record.kind != kind).collect::<Vec<_>>();
        let with = |record: Record| [good(), vec![record]].concat();
        for (records, expected) in [
            (without(NEXT_PROTOCOL), "the server's part of the key exchange does not agree on NTPv4"),
            (without(ALGORITHM), "the server's part of the key exchange does not agree on AEAD_AES_SIV_CMAC_256"),
            (without(NEW_COOKIE), "the server's part of the key exchange has no cookie"),
            (with(Record::new(true, ERROR, [0, 1])), "the server refuses the key exchange with code 1"),
            (
                with(Record::new(true, 99, Vec::new())),
                "the server's part of the key exchange has a critical record that we do not know",
            ),
        ] {
            assert_eq!(read_agreement(&records).unwrap_err().to_string(), expected);
        }
        assert!(read_agreement(&with(Record::new(false, 99, Vec::new()))).is_ok());
    }
}
