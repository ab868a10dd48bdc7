//! Sizes as people write them: amounts of memory and storage may have a unit.
//!
//! On the wire amounts are numbers of bytes, as in metal-api; only files are read by this.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Kind, Size};

const CONSTRAINT_KEYS: [&str; 4] = ["type", "min", "max", "identifier"];

/// Units of ten as on the label of a disk, units of two as on that of a memory module.
const UNITS: [(&str, u64); 12] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("TB", 1000_u64.pow(4)),
    ("PB", 1000_u64.pow(5)),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
];

/// One size of a YAML or JSON file. Errors name the size, the constraint and the field.
pub fn parse_size(mut value: Value) -> Result<Size> {
    let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let parsed = convert_constraints(&mut value)
        .and_then(|()| serde_path_to_error::deserialize(value).map_err(anyhow::Error::new));
    parsed.with_context(|| format!("size {id:?}"))
}

fn convert_constraints(size: &mut Value) -> Result<()> {
    // What has another shape is refused by the parser, which says which one it wants.
    let Some(Value::Array(constraints)) = size.get_mut("constraints") else { return Ok(()) };
    for (index, constraint) in constraints.iter_mut().enumerate() {
        let Value::Object(fields) = constraint else { continue };
        let kind = Kind::from(fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned());
        let at = format!("constraints[{index}] ({})", kind.as_str());
        // A misspelt identifier would be none, which matches everything.
        if let Some(key) = fields.keys().find(|key| !CONSTRAINT_KEYS.contains(&key.as_str())) {
            bail!("{at}: unknown key {key:?}, expected one of {}", CONSTRAINT_KEYS.join(", "));
        }
        for field in ["min", "max"] {
            let Some(Value::String(text)) = fields.get(field) else { continue };
            if !kind.is_in_bytes() {
                bail!("{at}: {field}: expected a plain number, found {text:?}");
            }
            let Some(bytes) = parse_amount(text) else {
                bail!("{at}: {field}: expected a number of bytes or an amount such as 800GB or 1TiB, found {text:?}");
            };
            fields.insert(field.to_owned(), bytes.into());
        }
    }
    Ok(())
}

/// Bytes of an amount with a unit (`800GB`, `1 TiB`, `1.5TB`) or without (`4096`). A fraction of a byte is dropped.
/// `None` for anything else, and for more than 64 bits.
pub fn parse_amount(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    let (whole, fraction) = match number.split_once('.') {
        // "4096.5" without a unit and "1." are slips, no amounts.
        Some((_, fraction)) if factor == 1 || fraction.is_empty() => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let whole: u64 = whole.parse().ok()?;
    let bytes = u128::from(whole) * u128::from(factor) + fraction_of(fraction, factor)?;
    u64::try_from(bytes).ok()
}

/// `factor` times the digits behind the point.
fn fraction_of(digits: &str, factor: u64) -> Option<u128> {
    if digits.is_empty() {
        return Some(0);
    }
    // More digits than these make no whole byte.
    let digits = digits.get(..18).unwrap_or(digits);
    let value: u64 = digits.parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    Some(u128::from(value) * u128::from(factor) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::config::parse_yaml;

    fn parse(yaml: &str) -> Result<Size> {
        parse_size(parse_yaml(yaml).unwrap())
    }

    #[test]
    fn amounts_have_decimal_and_binary_units() {
        let cases = [
            ("800GB", Some(800_000_000_000)),
            ("1TiB", Some(1_099_511_627_776)),
            ("1 TiB", Some(1_099_511_627_776)),
            (" 960 GB ", Some(960_000_000_000)),
            ("1.5TB", Some(1_500_000_000_000)),
            ("0.5KiB", Some(512)),
            ("1.92TB", Some(1_920_000_000_000)),
            ("1.1GiB", Some(1_181_116_006)),
            ("512 kB", Some(512_000)),
            ("512KB", Some(512_000)),
            ("3MB", Some(3_000_000)),
            ("3MiB", Some(3_145_728)),
            ("2PB", Some(2_000_000_000_000_000)),
            ("2PiB", Some(2_251_799_813_685_248)),
            ("7B", Some(7)),
            ("4096", Some(4096)),
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999TB", None),
            ("", None),
            ("GB", None),
            (".5TB", None),
            ("1.TB", None),
            ("1.2.3TB", None),
            ("4096.5", None),
            ("-1GB", None),
            ("+1GB", None),
            ("1,5TB", None),
            ("1Gb", None),
            ("1gb", None),
            ("1G", None),
            ("1XB", None),
            ("1e3GB", None),
            ("one TB", None),
            ("1TB extra", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_amount(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_size_is_written_with_units() {
        let size = parse(
            "{id: a, constraints: [{type: cores, min: 1, max: 4}, {type: memory, min: 7.5GiB, max: '8GiB'},
              {type: storage, min: \"800GB\", max: \"1TiB\", identifier: /dev/sd*}, {type: gpu, min: 8, max: 8, identifier: H100*}]}",
        )
        .unwrap();
        let ranges: Vec<(u64, u64)> = size.constraints.iter().map(|c| (c.min, c.max)).collect();
        let expected = [(1, 4), (8_053_063_680, 8_589_934_592), (800_000_000_000, 1_099_511_627_776), (8, 8)];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn errors_name_size_constraint_field_and_text() {
        let cases = [
            (
                "{id: a, constraints: [{type: memory, max: 1}, {type: storage, min: 800 XB}]}",
                "size \"a\": constraints[1] (storage): min: expected a number of bytes or an amount such as 800GB or \
                 1TiB, found \"800 XB\"",
            ),
            (
                "{id: a, constraints: [{type: memory, max: 1T}]}",
                "size \"a\": constraints[0] (memory): max: expected a number of bytes or an amount such as 800GB or \
                 1TiB, found \"1T\"",
            ),
            (
                "{id: a, constraints: [{type: gpu, min: 8GB, identifier: '*'}]}",
                "size \"a\": constraints[0] (gpu): min: expected a plain number, found \"8GB\"",
            ),
            (
                "{id: a, constraints: [{type: cores, max: '4'}]}",
                "size \"a\": constraints[0] (cores): max: expected a plain number, found \"4\"",
            ),
            (
                "{id: a, constraints: [{type: storage, identifer: '/dev/sd*'}]}",
                "size \"a\": constraints[0] (storage): unknown key \"identifer\", expected one of type, min, max, identifier",
            ),
            ("{id: a, constraints: [{type: cores, min: -1}]}", "size \"a\": constraints[0].min: invalid value"),
            ("{id: a, constraints: [{type: cores, min: 1.5}]}", "size \"a\": constraints[0].min: invalid type"),
            ("{id: a, constraints: 5}", "size \"a\": constraints: invalid type"),
            ("{id: [1]}", "size \"\": id: invalid type"),
        ];
        for (yaml, expected) in cases {
            let error = format!("{:#}", parse(yaml).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
