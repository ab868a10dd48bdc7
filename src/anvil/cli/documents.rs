//! Files of sizes, layouts and hardware: YAML or JSON, one object or a list of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::anvil::config::parse_yaml;
use crate::anvil::sizes::{Size, parse_size};
use crate::api::rest::Hardware;

/// Reads one object or a list.
pub(super) fn read_list<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    read_list_with(path, |item| Ok(serde_path_to_error::deserialize(item)?))
}

/// Reads one size or a list, with amounts as people write them.
pub(super) fn read_sizes(path: &Path) -> Result<Vec<Size>> {
    read_list_with(path, parse_size)
}

fn read_list_with<T>(path: &Path, parse: impl Fn(Value) -> Result<T>) -> Result<Vec<T>> {
    let items = match read_value(path)? {
        Value::Array(items) => items,
        one => vec![one],
    };
    let parse_item =
        |(index, item)| parse(item).with_context(|| format!("parsing object {} of {}", index + 1, path.display()));
    items.into_iter().enumerate().map(parse_item).collect()
}

/// Reads the hardware of a machine: what `drophammer inventory --format json` printed, or a machine of the API.
pub(super) fn read_hardware(path: &Path) -> Result<Hardware> {
    let mut value = read_value(path)?;
    if let Some(hardware) = value.get_mut("hardware") {
        value = hardware.take();
    }
    let has_hardware = HARDWARE_KEYS.iter().any(|key| value.get(key).is_some());
    ensure!(has_hardware, "parsing {}: expected an object with {}", path.display(), HARDWARE_KEYS.join(", "));
    drop_nulls(&mut value);
    serde_path_to_error::deserialize(value).with_context(|| format!("parsing {}", path.display()))
}

const HARDWARE_KEYS: [&str; 5] = ["memory", "cpus", "gpus", "disks", "nics"];

/// What is not known may also be written as null.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// JSON goes through its own parser: more exact messages, and tabs are allowed.
fn read_value(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if text.trim_start().starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str(&text)
    {
        return Ok(value);
    }
    parse_yaml(&text).with_context(|| format!("parsing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_or_a_list_in_yaml_or_json() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let path = dir.path().join("sizes");
            std::fs::write(&path, text).unwrap();
            read_list::<Size>(&path).map(|sizes| sizes.into_iter().map(|size| size.id).collect::<Vec<_>>())
        };
        assert_eq!(read("id: a\nconstraints: [{type: cores, min: 1, max: 2}]\n").unwrap(), ["a"]);
        assert_eq!(read("- id: a\n- id: b\n").unwrap(), ["a", "b"]);
        assert_eq!(read("{\n\t\"id\": \"a\"\n}").unwrap(), ["a"]);
        assert_eq!(read("[{id: a}, {id: b}]").unwrap(), ["a", "b"]);
        let error = format!("{:#}", read("- id: a\n- id: [1]\n").unwrap_err());
        assert!(error.contains("parsing object 2 of") && error.contains("id: invalid type"), "{error}");
    }

    #[test]
    fn hardware_is_an_inventory_or_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let path = dir.path().join("hardware");
            std::fs::write(&path, text).unwrap();
            read_hardware(&path)
        };
        let inventory = r#"{"memory": null, "cpus": [{"model": null, "cores": 4, "flags": ["a"]}], "tpm": null}"#;
        assert_eq!(read(inventory).unwrap().cpus[0].cores, 4);
        assert_eq!(read("{id: m, hardware: {memory: 5}}").unwrap().memory, 5);
        for (text, expected) in
            [("[]", "expected an object with"), ("{id: a}", "memory, cpus"), ("{disks: 5}", "disks")]
        {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
