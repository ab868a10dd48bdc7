//! `/etc/metal/disk.json`: read by the oldest installers in images only.

use serde::Serialize;

use super::MadeFilesystem;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DiskJson<'a> {
    device: &'a str,
    partitions: Vec<Partition<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Partition<'a> {
    label: &'a str,
    filesystem: &'a str,
    properties: Properties<'a>,
}

#[derive(Serialize)]
struct Properties<'a> {
    #[serde(rename = "UUID")]
    uuid: &'a str,
}

/// Two-space indented JSON with the file systems labelled `root`, `efi` and `varlib`.
pub fn render(filesystems: &[MadeFilesystem]) -> String {
    let partitions = filesystems
        .iter()
        .filter(|made| ["root", "efi", "varlib"].contains(&made.label.as_str()))
        .map(|made| Partition {
            label: &made.label,
            filesystem: &made.format,
            properties: Properties { uuid: &made.uuid },
        })
        .collect();
    serde_json::to_string_pretty(&DiskJson { device: "legacy", partitions }).expect("strings always make valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_only_the_labels_that_were_ever_read() {
        let made = |label: &str, format: &str, uuid: &str| MadeFilesystem {
            label: label.into(),
            format: format.into(),
            uuid: uuid.into(),
        };
        let text = render(&[made("efi", "vfat", "7A1B-22C3"), made("swap", "swap", "x")]);
        assert_eq!(
            text,
            r#"{
  "Device": "legacy",
  "Partitions": [
    {
      "Label": "efi",
      "Filesystem": "vfat",
      "Properties": {
        "UUID": "7A1B-22C3"
      }
    }
  ]
}"#
        );
    }
}
