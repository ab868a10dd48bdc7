//! Disks that a layout names by something else than their path: `by-id:NAME`, `by-path:NAME`, `serial:S`, `wwn:W`, or
//! words such as `smallest nvme` and `size>=400GB rotational=false`. Pure.
//!
//! Paths as `/dev/sda` change when a disk is added or fails; a serial number does not, and a size class fits a whole
//! series of machines. What fits several disks is a fault, never a choice.

use super::device::{DiskFacts, DiskKind};
use super::fault::Fault;
use crate::api::layout::{FilesystemLayout, is_selector, partition_device};
use crate::inventory::disk::device_name;

/// A layout with the names that its disks have on one machine.
pub struct Resolved {
    pub layout: FilesystemLayout,
    /// Device of each disk that was selected, and the selector.
    pub selectors: Vec<(String, String)>,
    pub faults: Vec<Fault>,
}

/// A disk whose selector is a fault keeps it as its name.
pub fn resolve(layout: &FilesystemLayout, disks: &[DiskFacts]) -> Resolved {
    let mut resolved = Resolved { layout: layout.clone(), selectors: Vec::new(), faults: Vec::new() };
    for (position, disk) in layout.disks.iter().enumerate().filter(|(_, disk)| is_selector(&disk.device)) {
        let device = match select(&disk.device, disks) {
            Ok(device) => device,
            Err(fault) => {
                resolved.faults.push(fault);
                continue;
            }
        };
        // Also another disk of the layout that is named by its path.
        let earlier = layout.disks.iter().take(position).filter(|other| is_selector(&other.device));
        let by_path = layout.disks.iter().filter(|other| other.device == device);
        let known =
            |name: &str| resolved.selectors.iter().any(|(found, selector)| *found == device && selector == name);
        if let Some(first) = by_path.chain(earlier.filter(|other| known(&other.device))).next() {
            let (first, second) = (first.device.clone(), disk.device.clone());
            resolved.faults.push(Fault::SelectorSame { device, first, second });
            continue;
        }
        rename(&mut resolved.layout, position, &device);
        resolved.selectors.push((device, disk.device.clone()));
    }
    resolved
}

/// Gives one disk its device, wherever the layout speaks of it.
fn rename(layout: &mut FilesystemLayout, position: usize, device: &str) {
    let Some(disk) = layout.disks.get_mut(position) else { return };
    let old = std::mem::replace(&mut disk.device, device.to_owned());
    let mut names = vec![(old.clone(), device.to_owned())];
    names
        .extend(disk.partitions.iter().map(|p| (partition_device(&old, p.number), partition_device(device, p.number))));
    let filesystems = layout.filesystems.iter_mut().map(|fs| &mut fs.device);
    let members = layout.raid.iter_mut().flat_map(|raid| raid.devices.iter_mut());
    let volumes = layout.volumegroups.iter_mut().flat_map(|group| group.devices.iter_mut());
    for name in filesystems.chain(members).chain(volumes) {
        if let Some((_, new)) = names.iter().find(|(old, _)| old == name) {
            new.clone_into(name);
        }
    }
}

fn select(selector: &str, disks: &[DiskFacts]) -> Result<String, Fault> {
    let rule = Rule::parse(selector).map_err(|why| Fault::SelectorBad { selector: selector.to_owned(), why })?;
    let fixed = || disks.iter().filter(|disk| disk.kind == DiskKind::Fixed);
    let mut found: Vec<&DiskFacts> = fixed().filter(|disk| rule.fits(disk)).collect();
    if let Some(extreme) = rule.extreme {
        let sizes = found.iter().map(|disk| disk.size);
        let best = match extreme {
            Extreme::Smallest => sizes.min(),
            Extreme::Largest => sizes.max(),
        };
        found.retain(|disk| Some(disk.size) == best);
    }
    match found.as_slice() {
        [disk] => Ok(disk.device.clone()),
        [] => Err(Fault::SelectorNone { selector: selector.to_owned(), candidates: fixed().map(described).collect() }),
        several => {
            let found = several.iter().map(|disk| described(disk)).collect();
            Err(Fault::SelectorSeveral { selector: selector.to_owned(), found })
        }
    }
}

/// The disks that a name means which stands for one disk: `/dev/…` (the disk, a partition of it, a link to it),
/// `by-id:…`, `by-path:…`, `serial:…`, `wwn:…`. Several where disks share a serial number, as namespaces do.
///
/// # Errors
///
/// Why the name is none of these.
pub fn named<'a>(name: &str, disks: &'a [DiskFacts]) -> Result<Vec<&'a DiskFacts>, String> {
    if name.starts_with("/dev/") && name.len() > "/dev/".len() {
        return Ok(disks.iter().filter(|disk| has_path(disk, name)).collect());
    }
    if !name.contains(':') {
        return Err("it is none of /dev/…, by-id:…, by-path:…, serial:…, wwn:…".to_owned());
    }
    let rule = Rule::parse(without_partition(name))?;
    Ok(disks.iter().filter(|disk| rule.fits(disk)).collect())
}

fn has_path(disk: &DiskFacts, path: &str) -> bool {
    disk.device == path
        || disk.partitions.iter().any(|partition| device_name(&partition.name) == path)
        || disk.links.iter().any(|link| link == without_partition(path))
}

/// udev's links to partitions are those of the disk and `-part1`.
fn without_partition(name: &str) -> &str {
    let is_link = name.starts_with("by-") || name.starts_with("/dev/disk/");
    match name.rsplit_once("-part") {
        Some((disk, number)) if is_link && number.parse::<u32>().is_ok() => disk,
        _ => name,
    }
}

/// What a person needs to write a better selector.
fn described(disk: &DiskFacts) -> String {
    let serial = disk.serial.as_ref().map(|serial| format!(", serial {serial}")).unwrap_or_default();
    let wwn = disk.wwn.as_ref().map(|wwn| format!(", wwn {wwn}")).unwrap_or_default();
    format!("{} ({}{serial}{wwn})", disk.device, disk.size)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extreme {
    Smallest,
    Largest,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    extreme: Option<Extreme>,
    tests: Vec<Test>,
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    /// Below `/dev/disk/`.
    Link(String),
    Serial(String),
    Wwn(String),
    Nvme,
    Rotational(bool),
    Model(String),
    Size(Comparison, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some((kind, name)) = text.split_once(':') {
            let test = match kind {
                "by-id" | "by-path" => Test::Link(format!("{kind}/{name}")),
                "serial" => Test::Serial(name.trim().to_owned()),
                "wwn" => Test::Wwn(bare_wwn(name)),
                _ => return Err(format!("{kind:?} is none of by-id, by-path, serial, wwn")),
            };
            return if name.trim().is_empty() {
                Err(format!("nothing follows {kind}:"))
            } else {
                Ok(Self { extreme: None, tests: vec![test] })
            };
        }
        let mut rule = Self::default();
        for word in text.split_whitespace() {
            rule.add_word(word)?;
        }
        if rule == Self::default() { Err("it says nothing".to_owned()) } else { Ok(rule) }
    }

    fn add_word(&mut self, word: &str) -> Result<(), String> {
        let extreme = match word {
            "smallest" => Extreme::Smallest,
            "largest" => Extreme::Largest,
            _ => {
                self.tests.push(Test::parse(word)?);
                return Ok(());
            }
        };
        match self.extreme.replace(extreme) {
            None => Ok(()),
            Some(_) => Err("it has two of smallest, largest".to_owned()),
        }
    }

    fn fits(&self, disk: &DiskFacts) -> bool {
        self.tests.iter().all(|test| test.fits(disk))
    }
}

impl Test {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "nvme" => return Ok(Self::Nvme),
            "ssd" => return Ok(Self::Rotational(false)),
            "hdd" => return Ok(Self::Rotational(true)),
            _ => {}
        }
        if let Some(text) = word.strip_prefix("rotational=") {
            let rotational = text.parse().map_err(|_| format!("rotational is true or false, not {text:?}"))?;
            return Ok(Self::Rotational(rotational));
        }
        if let Some(text) = word.strip_prefix("model=") {
            return Ok(Self::Model(text.to_owned()));
        }
        let Some(rest) = word.strip_prefix("size") else {
            return Err(format!(
                "{word:?} is none of smallest, largest, nvme, ssd, hdd, rotational=, model=, size<, <=, =, >=, >"
            ));
        };
        let operators = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::More),
            ("=", Comparison::Equal),
        ];
        let found = operators.into_iter().find_map(|(sign, comparison)| Some((comparison, rest.strip_prefix(sign)?)));
        let (comparison, size) = found.ok_or_else(|| format!("{word:?} compares size with nothing"))?;
        Ok(Self::Size(
            comparison,
            parse_size(size).ok_or_else(|| format!("{size:?} is no size, such as 400GB or 2TiB"))?,
        ))
    }

    fn fits(&self, disk: &DiskFacts) -> bool {
        match self {
            Self::Link(link) => disk.links.iter().any(|known| known.strip_prefix("/dev/disk/") == Some(link)),
            Self::Serial(serial) => disk.serial.as_ref() == Some(serial),
            Self::Wwn(wwn) => disk.wwn.as_deref().is_some_and(|known| bare_wwn(known) == *wwn),
            Self::Nvme => disk.name.starts_with("nvme"),
            Self::Rotational(rotational) => disk.rotational == Some(*rotational),
            // Words of a model are parted by blanks, which a selector can't have in one word.
            Self::Model(model) => disk.model.as_deref().is_some_and(|known| known.replace(' ', "_").contains(model)),
            Self::Size(comparison, size) => match comparison {
                Comparison::Less => disk.size.0 < *size,
                Comparison::AtMost => disk.size.0 <= *size,
                Comparison::Equal => disk.size.0 == *size,
                Comparison::AtLeast => disk.size.0 >= *size,
                Comparison::More => disk.size.0 > *size,
            },
        }
    }
}

/// The same name is written `naa.5000c500…`, `0x5000c500…` and in capitals.
fn bare_wwn(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    let bare = ["naa.", "eui.", "uuid.", "0x"].iter().find_map(|prefix| text.strip_prefix(prefix));
    bare.map_or_else(|| text.clone(), str::to_owned)
}

/// `400GB`, `2TiB`, `512MiB`, or bytes.
fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text.strip_suffix('B').unwrap_or(text), 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests;
