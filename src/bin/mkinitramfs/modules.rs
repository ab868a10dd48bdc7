//! The modules of a kernel package: which of them are packed, and the tables that tell the agent about them.
//!
//! Source: `lib/modules/<release>/modules.{dep,softdep,alias,builtin}` as depmod writes them. In names `-` and `_` are
//! the same; here they are always `_`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::pattern;

pub struct Kernel {
    release: String,
    dir: PathBuf,
    /// Name → path below `dir`.
    paths: BTreeMap<String, String>,
    /// Path → paths of all it needs.
    dependencies: BTreeMap<String, Vec<String>>,
    /// Name → names or aliases of what it wants beside it.
    soft_dependencies: BTreeMap<String, Vec<String>>,
    /// Alias pattern → name, in the order of the file.
    aliases: Vec<(String, String)>,
    builtin: BTreeSet<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of the modules to pack.
    pub names: BTreeSet<String>,
    /// What was asked for, and is neither a module nor built in.
    pub unknown: Vec<String>,
}

impl Kernel {
    /// Reads the only kernel below `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let (release, dir) = find_release(root)?;
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| {
                format!("reading {} (has depmod -b {} {release} been run?)", path.display(), root.display())
            })
        };
        let dependencies = parse_dependencies(&read("modules.dep")?);
        Ok(Self {
            paths: dependencies.keys().map(|path| (module_name(path), path.clone())).collect(),
            dependencies,
            soft_dependencies: parse_soft_dependencies(&read("modules.softdep")?),
            aliases: parse_aliases(&read("modules.alias")?),
            builtin: read("modules.builtin")?.lines().map(module_name).collect(),
            release,
            dir,
        })
    }

    pub fn release(&self) -> &str {
        &self.release
    }

    /// The modules that match, and all they need.
    pub fn select(&self, wanted: &[String]) -> Selection {
        let mut selection = Selection::default();
        for pattern in wanted {
            let found = self.find(pattern);
            if found.is_empty() && !self.is_builtin(pattern) {
                selection.unknown.push(pattern.clone());
            }
            for name in found {
                self.select_with_needs(name, &mut selection.names);
            }
        }
        selection
    }

    fn find(&self, wanted: &str) -> Vec<&str> {
        let by_path = wanted.contains('/');
        let pattern = if by_path { wanted.to_owned() } else { normalise(wanted) };
        let is_match =
            |(name, path): &(&String, &String)| pattern::matches(&pattern, if by_path { path } else { name });
        self.paths.iter().filter(is_match).map(|(name, _)| name.as_str()).collect()
    }

    fn is_builtin(&self, wanted: &str) -> bool {
        let pattern = normalise(wanted);
        self.builtin.iter().any(|name| pattern::matches(&pattern, name))
    }

    fn select_with_needs(&self, name: &str, chosen: &mut BTreeSet<String>) {
        let Some(path) = self.paths.get(name) else { return };
        if !chosen.insert(name.to_owned()) {
            return;
        }
        for needed in self.dependencies.get(path).into_iter().flatten() {
            self.select_with_needs(&module_name(needed), chosen);
        }
        for wanted in self.soft_dependencies.get(name).into_iter().flatten() {
            for module in self.resolve(wanted) {
                self.select_with_needs(&module, chosen);
            }
        }
    }

    /// A soft dependency names a module, or an alias that any number of modules have (`crc32c`).
    fn resolve(&self, wanted: &str) -> Vec<String> {
        let name = normalise(wanted);
        if self.paths.contains_key(&name) {
            return vec![name];
        }
        let has_alias = |alias: &&(String, String)| normalise(&alias.0) == name;
        self.aliases.iter().filter(has_alias).map(|(_, module)| module.clone()).collect()
    }

    /// Packs the chosen modules with tables that name no others.
    pub fn pack(&self, selection: &Selection, archive: &mut Archive) -> Result<()> {
        let target = format!("lib/modules/{}", self.release);
        for path in selection.names.iter().filter_map(|name| self.paths.get(name)) {
            let file = self.dir.join(path);
            let data = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            archive.add_file(&format!("{target}/{path}"), 0o644, data)?;
        }
        for (table, about) in
            [("modules.dep", Column::Path), ("modules.softdep", Column::Second), ("modules.alias", Column::Last)]
        {
            let text = fs::read_to_string(self.dir.join(table)).with_context(|| format!("reading {table}"))?;
            let kept = trim_table(&text, about, &selection.names);
            archive.add_file(&format!("{target}/{table}"), 0o644, kept.into_bytes())?;
        }
        // Whole: it tells that a driver is there although it is no file.
        let builtin = fs::read(self.dir.join("modules.builtin")).context("reading modules.builtin")?;
        archive.add_file(&format!("{target}/modules.builtin"), 0o644, builtin)
    }
}

/// Which word of a table's line says what module the line is about.
#[derive(Clone, Copy)]
enum Column {
    /// The first, a path with `:` behind it.
    Path,
    Second,
    Last,
}

/// The lines about `names`, and comments.
fn trim_table(text: &str, column: Column, names: &BTreeSet<String>) -> String {
    let about = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        match column {
            Column::Path => words.next().map(|path| module_name(path.trim_end_matches(':'))),
            Column::Second => words.nth(1).map(normalise),
            Column::Last => words.next_back().map(normalise),
        }
    };
    text.lines()
        .filter(|line| line.starts_with('#') || about(line).is_some_and(|name| names.contains(&name)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

fn find_release(root: &Path) -> Result<(String, PathBuf)> {
    let mut found = Vec::new();
    for place in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(root.join(place)) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}/{place}", root.display()))?;
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    match <[_; 1]>::try_from(found) {
        Ok([only]) => Ok(only),
        Err(others) => {
            let names: Vec<String> = others.into_iter().map(|(name, _)| name).collect();
            bail!(
                "{} holds {} kernels in lib/modules instead of one: {}",
                root.display(),
                names.len(),
                names.join(", ")
            )
        }
    }
}

fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/block/virtio-blk.ko.xz` → `virtio_blk`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normalise(file.split(".ko").next().unwrap_or(file))
}

fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (path.to_owned(), needs.split_ascii_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// `softdep NAME pre: A B post: C`; newer tables may have further words with a colon, which are left out too.
fn parse_soft_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("softdep") {
            continue;
        }
        let Some(name) = words.next() else { continue };
        let wanted = words.filter(|word| !word.ends_with(':')).map(str::to_owned);
        all.entry(normalise(name)).or_default().extend(wanted);
    }
    all
}

fn parse_aliases(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("alias "))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(alias, name)| (alias.to_owned(), normalise(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        let dependencies = parse_dependencies(
            "kernel/a/nvme.ko: kernel/a/nvme-core.ko\nkernel/a/nvme-core.ko:\nkernel/c/crc32c-intel.ko:\n\
             kernel/c/crc32c_generic.ko:\nkernel/f/ext4.ko:\nkernel/n/nls_ascii.ko:\n",
        );
        Kernel {
            release: "6.1".into(),
            dir: PathBuf::new(),
            paths: dependencies.keys().map(|path| (module_name(path), path.clone())).collect(),
            dependencies,
            soft_dependencies: parse_soft_dependencies("softdep ext4 pre: crc32c\n"),
            aliases: parse_aliases("alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias pci:v* nvme\n"),
            builtin: ["loop".to_owned()].into(),
        }
    }

    fn select(wanted: &[&str]) -> Selection {
        kernel().select(&wanted.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn dependencies_come_with_a_module() {
        let selection = select(&["nvme"]);
        assert_eq!(selection.names.into_iter().collect::<Vec<_>>(), ["nvme", "nvme_core"]);
    }

    #[test]
    fn a_soft_dependency_on_an_alias_brings_every_module_of_that_alias() {
        let selection = select(&["ext4"]);
        assert_eq!(selection.names.into_iter().collect::<Vec<_>>(), ["crc32c_generic", "crc32c_intel", "ext4"]);
    }

    #[test]
    fn names_and_paths_are_patterns() {
        assert_eq!(select(&["nls-*"]).names.len(), 1);
        assert_eq!(select(&["kernel/c/*"]).names.len(), 2);
    }

    #[test]
    fn what_is_neither_module_nor_built_in_is_told() {
        assert_eq!(select(&["loop", "mpt3sas", "nvme"]).unknown, ["mpt3sas"]);
    }

    #[test]
    fn tables_are_trimmed_to_what_is_packed() {
        let names: BTreeSet<String> = ["nvme".to_owned()].into();
        let aliases = "# Aliases\nalias pci:v*d* nvme\nalias crc32c crc32c_intel\n";
        assert_eq!(trim_table(aliases, Column::Last, &names), "# Aliases\nalias pci:v*d* nvme\n");
        let needs = "kernel/a/nvme.ko: kernel/a/nvme-core.ko\nkernel/f/ext4.ko:\n";
        assert_eq!(trim_table(needs, Column::Path, &names), "kernel/a/nvme.ko: kernel/a/nvme-core.ko\n");
    }
}
