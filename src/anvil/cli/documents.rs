//! Files of sizes, layouts and hardware: YAML or JSON, one object or a list of them.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::anvil::config::parse_yaml;

/// Reads one object or a list.
pub(super) fn read_list<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let value: serde_json::Value = read_value(path)?;
    let items = match value {
        serde_json::Value::Array(items) => items,
        one => vec![one],
    };
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            serde_path_to_error::deserialize(item)
                .with_context(|| format!("parsing object {} of {}", index + 1, path.display()))
        })
        .collect()
}

/// Reads one object.
pub(super) fn read_one<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_path_to_error::deserialize(read_value(path)?).with_context(|| format!("parsing {}", path.display()))
}

/// JSON goes through its own parser: more exact messages, and tabs are allowed.
fn read_value(path: &Path) -> Result<serde_json::Value> {
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
    use crate::anvil::sizes::Size;

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
}
