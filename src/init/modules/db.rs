//! The tables of one kernel: `/lib/modules/<release>/modules.{alias,dep,softdep,builtin}`.
//!
//! Source: modprobe.d(5), depmod(8), and the kernel's `Documentation/kbuild/modules.rst`. Names are kept with `_` for
//! `-`, which mean the same to modprobe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::glob;

/// One kernel's modules. Empty for a kernel that has everything built in.
#[derive(Clone, Debug, Default)]
pub struct ModuleDb {
    dir: PathBuf,
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
    aliases: AliasIndex,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Below the kernel's folder, e.g. `kernel/drivers/net/ethernet/intel/igb/igb.ko.xz`.
    pub path: String,
    /// Must be loaded before.
    pub needs: Vec<String>,
    /// Should be loaded before, if they can be.
    pub soft_before: Vec<String>,
    /// Should be loaded after.
    pub soft_after: Vec<String>,
}

impl ModuleDb {
    /// Reads the tables in `dir`. A table that is not there is an empty one.
    pub fn read(dir: &Path) -> Self {
        let table = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let mut db = Self {
            dir: dir.to_owned(),
            modules: parse_dep(&table("modules.dep")),
            builtin: parse_builtin(&table("modules.builtin")),
            aliases: AliasIndex::parse(&table("modules.alias")),
        };
        db.add_softdeps(&table("modules.softdep"));
        db
    }

    /// The folder of the running kernel: `/lib/modules/<release>`.
    pub fn running_kernel_dir() -> PathBuf {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_owned()).unwrap_or_default();
        Path::new("/lib/modules").join(release)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(&module_name(name))
    }

    /// Where the module's file is.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(|module| self.dir.join(&module.path))
    }

    /// Whether the kernel has it without a module.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&module_name(name))
    }

    /// The modules that want a device with this `modalias`, in the order of the table, each once.
    pub fn modules_for(&self, modalias: &str) -> Vec<String> {
        self.aliases.find(modalias)
    }

    /// The modules that a name means: itself, or, when it is an alias (`crct10dif`), all that go by it. Empty for what
    /// is built in or not there.
    pub fn resolve(&self, name: &str) -> Vec<String> {
        let name = module_name(name);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        if self.builtin.contains(&name) {
            return Vec::new();
        }
        self.modules_for(&name).into_iter().filter(|module| self.modules.contains_key(module)).collect()
    }

    /// Everything to load for `name`, in order: what should be there before, what must be, the module, what should
    /// come after. Each once; empty when there is no such module.
    pub fn load_order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        let mut visited = BTreeSet::new();
        self.resolve(name).iter().for_each(|module| self.visit(module, &mut visited, &mut order));
        order
    }

    /// Depth first. A circle of soft dependencies ends at a module that has been visited.
    fn visit(&self, name: &str, visited: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let Some(module) = self.modules.get(name) else { return };
        if !visited.insert(name.to_owned()) {
            return;
        }
        for before in module.soft_before.iter().flat_map(|name| self.resolve(name)) {
            self.visit(&before, visited, order);
        }
        // depmod writes what is needed first at the end of the line.
        for needed in module.needs.iter().rev() {
            self.visit(needed, visited, order);
        }
        order.push(name.to_owned());
        for after in module.soft_after.iter().flat_map(|name| self.resolve(name)) {
            self.visit(&after, visited, order);
        }
    }

    fn add_softdeps(&mut self, text: &str) {
        for (name, before, after) in text.lines().filter_map(parse_softdep) {
            if let Some(module) = self.modules.get_mut(&name) {
                module.soft_before.extend(before);
                module.soft_after.extend(after);
            }
        }
    }
}

/// `i2c-dev`, `kernel/drivers/i2c/i2c-dev.ko.xz` → `i2c_dev`.
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file.strip_suffix(suffix));
    stem.unwrap_or(file).replace('-', "_")
}

/// `path/a.ko: path/b.ko path/c.ko`: a needs b and c.
fn parse_dep(text: &str) -> BTreeMap<String, Module> {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        let needs = needs.split_ascii_whitespace().map(module_name).collect();
        Some((module_name(path), Module { path: path.trim().to_owned(), needs, ..Module::default() }))
    };
    text.lines().filter_map(line).collect()
}

fn parse_builtin(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.is_empty()).map(module_name).collect()
}

/// `softdep nvme pre: crc-t10dif post: other`
fn parse_softdep(line: &str) -> Option<(String, Vec<String>, Vec<String>)> {
    let mut words = line.strip_prefix("softdep ")?.split_ascii_whitespace();
    let name = module_name(words.next()?);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut is_after = None;
    for word in words {
        match (word, is_after) {
            ("pre:", _) => is_after = Some(false),
            ("post:", _) => is_after = Some(true),
            (name, Some(false)) => before.push(name.to_owned()),
            (name, Some(true)) => after.push(name.to_owned()),
            // A name before the first keyword means nothing.
            (_, None) => {}
        }
    }
    Some((name, before, after))
}

/// Patterns by the text that every match begins with. Distribution kernels have 20 000 of them: a look-up tries only
/// those of one kind of bus and, mostly, one vendor and device.
#[derive(Clone, Debug, Default)]
struct AliasIndex {
    /// Pattern and module, with the number of the line.
    by_prefix: HashMap<String, Vec<(usize, String, String)>>,
    /// All lengths of prefixes that exist.
    prefix_lengths: BTreeSet<usize>,
}

impl AliasIndex {
    /// `alias pci:v00008086d00001521sv*sd*bc*sc*i* igb`
    fn parse(text: &str) -> Self {
        let mut index = Self::default();
        for (number, line) in text.lines().enumerate() {
            let Some((pattern, module)) = line.strip_prefix("alias ").and_then(|rest| rest.trim().rsplit_once(' '))
            else {
                continue;
            };
            let pattern = normalize(pattern.trim());
            let prefix = glob::literal_prefix(&pattern).to_owned();
            index.prefix_lengths.insert(prefix.len());
            index.by_prefix.entry(prefix).or_default().push((number, pattern, module_name(module)));
        }
        index
    }

    fn find(&self, modalias: &str) -> Vec<String> {
        let modalias = normalize(modalias);
        let mut hits: Vec<(usize, &String)> = Vec::new();
        for prefix in self.prefix_lengths.iter().map_while(|length| {
            // Longer prefixes than the modalias cannot match; a cut inside a character is none either.
            (*length <= modalias.len()).then(|| modalias.get(..*length).unwrap_or_default())
        }) {
            let candidates = self.by_prefix.get(prefix).into_iter().flatten();
            let matching = candidates.filter(|(_, pattern, _)| glob::matches(pattern, &modalias));
            hits.extend(matching.map(|(number, _, module)| (*number, module)));
        }
        hits.sort_unstable();
        let mut seen = BTreeSet::new();
        hits.into_iter().filter(|(_, module)| seen.insert(*module)).map(|(_, module)| module.clone()).collect()
    }
}

/// `-` and `_` mean the same, except in a set, where `-` makes a range (as modprobe has it).
fn normalize(alias: &str) -> String {
    let mut in_set = false;
    let normal = |c: char| {
        match c {
            '[' => in_set = true,
            ']' => in_set = false,
            _ => {}
        }
        if c == '-' && !in_set { '_' } else { c }
    };
    alias.chars().map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_with_either_dash_and_any_compression() {
        for path in ["i2c-dev", "kernel/drivers/i2c/i2c-dev.ko", "i2c_dev.ko.xz", "a/i2c-dev.ko.zst"] {
            assert_eq!(module_name(path), "i2c_dev");
        }
    }

    #[test]
    fn soft_dependencies_before_and_after_are_told_apart() {
        let parsed = parse_softdep("softdep uas pre: a-b c post: d").expect("a line");
        assert_eq!(parsed, ("uas".to_owned(), vec!["a-b".to_owned(), "c".to_owned()], vec!["d".to_owned()]));
        assert_eq!(parse_softdep("# Soft dependencies extracted from modules themselves."), None);
    }

    #[test]
    fn a_dash_in_a_set_stays_a_range() {
        assert_eq!(normalize("usb:v-[0-9]-x"), "usb:v_[0-9]_x");
    }

    #[test]
    fn a_modalias_that_is_not_ascii_does_no_harm() {
        let index = AliasIndex::parse("alias abc:* a\nalias ab* b\n");
        assert_eq!(index.find("aé:x"), Vec::<String>::new());
    }
}
