//! Which size a machine has.
//!
//! For one size two things must hold: every constraint's sum is in its range, and every item is covered by a
//! constraint of its type. Over all sizes exactly one must match. This is metal-api's algorithm; [`Matching`] is the
//! one place where more can match than there.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Constraint, Kind, Size};
use crate::anvil::glob;
use crate::api::rest::Hardware;
use crate::sys::units::Bytes;

/// How many of the texts that an identifier did not match are told.
const TOLD_TEXTS: usize = 3;

/// How the identifiers of GPU constraints are understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// A GPU is also found by the marketing name, which stands in the brackets of its model: `H100*` is
    /// `GH100 [H100 SXM5 80GB]`, and not `GH100 [H200 NVL]`.
    #[default]
    WithMarketingNames,
    /// Only by its model as a whole, to the letter as in metal-api.
    Strict,
}

/// One thing that is counted: what identifiers are tried on, and its value.
struct Item<'h> {
    text: &'h str,
    marketing_name: Option<&'h str>,
    value: u64,
}

impl<'h> Item<'h> {
    fn new(text: &'h str, value: u64) -> Self {
        Self { text, marketing_name: None, value }
    }

    fn gpu(model: &'h str, matching: Matching) -> Self {
        let marketing_name = match matching {
            Matching::WithMarketingNames => marketing_name(model),
            Matching::Strict => None,
        };
        Self { text: model, marketing_name, value: 1 }
    }
}

/// What stands in the last brackets of a model: `H100 PCIe` of `GH100 [H100 PCIe]`.
fn marketing_name(model: &str) -> Option<&str> {
    let inside = model.strip_suffix(']')?;
    inside.rsplit_once('[').map(|(_, name)| name).filter(|name| !name.is_empty())
}

fn items<'h>(hardware: &'h Hardware, kind: &Kind, matching: Matching) -> Vec<Item<'h>> {
    match kind {
        Kind::Cores => hardware.cpus.iter().map(|cpu| Item::new(&cpu.model, u64::from(cpu.cores))).collect(),
        Kind::Memory => vec![Item::new("", hardware.memory)],
        Kind::Storage => hardware.disks.iter().map(|disk| Item::new(&disk.name, disk.size)).collect(),
        Kind::Gpu => hardware.gpus.iter().map(|gpu| Item::gpu(&gpu.model, matching)).collect(),
        Kind::Other(_) | Kind::Absent => Vec::new(),
    }
}

/// The first thing that keeps a size from matching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// Its id.
    pub size: String,
    /// Which of its constraints is not met, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<usize>,
    /// Which device none of its constraints covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The same as a sentence.
    pub reason: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.size, self.reason)
    }
}

/// What came of trying all sizes on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The machine's size. Absent when no size matches, or more than one.
    pub id: Option<String>,
    /// All sizes that match.
    pub matching: Vec<String>,
    /// All others, in the order of the sizes.
    pub misses: Vec<Miss>,
}

/// One sentence.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.matching.as_slice() {
            [only] => write!(f, "{only}"),
            [] if self.misses.is_empty() => write!(f, "no size matches, since there are none"),
            [] => {
                write!(f, "no size matches")?;
                self.misses.iter().try_for_each(|miss| write!(f, "; {miss}"))
            }
            several => write!(f, "{} sizes found: {}", several.len(), several.join(", ")),
        }
    }
}

/// Tries all sizes on the hardware.
pub fn judge(sizes: &[Size], hardware: &Hardware, matching: Matching) -> Verdict {
    let mut verdict = Verdict::default();
    for size in sizes {
        match miss(size, hardware, matching) {
            None => verdict.matching.push(size.id.clone()),
            Some(miss) => verdict.misses.push(miss),
        }
    }
    if let [only] = verdict.matching.as_slice() {
        verdict.id = Some(only.clone());
    }
    verdict
}

/// What keeps the size from matching the hardware; `None` when it matches.
pub fn miss(size: &Size, hardware: &Hardware, matching: Matching) -> Option<Miss> {
    let miss = |constraint, device, reason| Miss { size: size.id.clone(), constraint, device, reason };
    if size.constraints.is_empty() {
        return Some(miss(None, None, "has no constraints".to_owned()));
    }
    for (index, constraint) in size.constraints.iter().enumerate() {
        if let Some(reason) = constraint.out_of_range(hardware, matching) {
            return Some(miss(Some(index), None, reason));
        }
    }
    for kind in Kind::COUNTED {
        let constraints: Vec<&Constraint> = size.constraints.iter().filter(|c| c.kind == kind).collect();
        for item in items(hardware, &kind, matching) {
            if !constraints.iter().any(|constraint| constraint.covers(&item)) {
                let device = if item.text.is_empty() { kind.as_str() } else { item.text };
                let text = if item.text.is_empty() { String::new() } else { format!(" {}", item.text) };
                let reason = format!("no constraint covers {}{text}", kind.as_str());
                return Some(miss(None, Some(device.to_owned()), reason));
            }
        }
    }
    None
}

impl Constraint {
    /// A bad pattern matches nothing.
    fn covers(&self, item: &Item<'_>) -> bool {
        let fits = |text: &str| glob::matches(&self.identifier, text).unwrap_or(false);
        self.identifier.is_empty() || fits(item.text) || item.marketing_name.is_some_and(fits)
    }

    /// Why the hardware is not in range.
    fn out_of_range(&self, hardware: &Hardware, matching: Matching) -> Option<String> {
        if matches!(self.kind, Kind::Other(_) | Kind::Absent) {
            return Some(format!("constraint type {:?} is unknown and never matches", self.kind.as_str()));
        }
        let all = items(hardware, &self.kind, matching);
        let covered: Vec<&Item<'_>> = all.iter().filter(|item| self.covers(item)).collect();
        let sum = covered.iter().fold(0_u64, |sum, item| sum.saturating_add(item.value));
        if (self.min..=self.max).contains(&sum) {
            return None;
        }
        let which = if self.identifier.is_empty() { String::new() } else { format!(" {}", self.identifier) };
        let mut reason =
            format!("{}{which}: expected {}, found {}", self.kind.as_str(), self.range(), self.amount(sum));
        if covered.is_empty() && !all.is_empty() {
            reason.push_str(&format!(" (it matches none of {})", texts(&all)));
        }
        Some(reason)
    }

    fn range(&self) -> String {
        if self.min == self.max {
            return self.amount(self.min);
        }
        if self.kind.is_in_bytes() {
            format!("{} to {} bytes ({} to {})", self.min, self.max, Bytes(self.min), Bytes(self.max))
        } else {
            format!("{} to {}", self.min, self.max)
        }
    }

    fn amount(&self, value: u64) -> String {
        if self.kind.is_in_bytes() { format!("{value} bytes ({})", Bytes(value)) } else { value.to_string() }
    }
}

/// The different texts among the items, with how often each is there.
fn texts(items: &[Item<'_>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(item.text).or_default() += 1;
    }
    let told: Vec<String> = counts
        .iter()
        .take(TOLD_TEXTS)
        .map(|(text, count)| if *count == 1 { format!("{text:?}") } else { format!("{count} {text:?}") })
        .collect();
    let more = if counts.len() > TOLD_TEXTS { ", …" } else { "" };
    told.join(", ") + more
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::super::{SizeFault, overlap};
    use super::*;

    fn matches_by(matching: Matching, constraints: Vec<Constraint>, hardware: &Hardware) -> bool {
        miss(&size("x", constraints), hardware, matching).is_none()
    }

    /// A row of the contract's table: its letter, and the result.
    struct Row {
        name: &'static str,
        first: Vec<Constraint>,
        storage: Vec<Constraint>,
        gpu: Vec<Constraint>,
        hardware: Hardware,
        strict: bool,
    }

    /// Section 4, rows A to R.
    fn worked_cases() -> Vec<Row> {
        let row = |name, storage, gpu, strict| Row {
            name,
            first: vec![cores(56, 56, ""), memory(1000, 1100)],
            storage,
            gpu,
            hardware: gpu_server(),
            strict,
        };
        let nvme_and_sd = || vec![storage(7000, 9000, "/dev/nvme*"), storage(400, 500, "/dev/sd*")];
        let all = || vec![storage(8000, 9000, "")];
        let gh100 = || vec![gpu(8, 8, "GH100*")];
        let mut more_cores = gpu_server();
        more_cores.cpus = vec![cpu(XEON, 32), cpu(XEON, 32)];
        let mut mixed = gpu_server();
        mixed.gpus = [gpus(H100, 4), gpus("AD102GL [L40S]", 1)].concat();
        let overlapping = [vec![storage(3000, 4000, "/dev/nvme0n1")], nvme_and_sd()].concat();
        let by_model = |model| vec![cores(56, 56, model), memory(1000, 1100)];
        vec![
            row("A", nvme_and_sd(), vec![gpu(8, 8, "H100*")], false),
            row("B", nvme_and_sd(), gh100(), true),
            row("C", vec![storage(7000, 9000, "/dev/nvme*")], gh100(), false),
            row("D", all(), gh100(), true),
            row("E", vec![storage(0, 9000, "*")], gh100(), false),
            row("F", vec![storage(8000, 9000, "/dev/*")], gh100(), true),
            row("G", all(), vec![], false),
            Row { first: vec![cores(56, 56, "")], ..row("H", all(), gh100(), false) },
            row("I", all(), vec![gpu(8, 8, "GH100*"), gpu(0, 0, "GA100*")], true),
            row("J", overlapping, gh100(), true),
            row("K", all(), vec![gpu(4, 8, "GH100*")], true),
            Row { hardware: more_cores, ..row("L", all(), gh100(), false) },
            Row { first: by_model("Intel Xeon*"), ..row("M", all(), gh100(), false) },
            Row { first: by_model("Intel(R) Xeon(R)*"), ..row("N", all(), gh100(), true) },
            Row { hardware: mixed, ..row("R", all(), vec![gpu(4, 4, "GH100*")], false) },
        ]
    }

    #[test]
    fn worked_cases_of_the_gpu_server() {
        for row in worked_cases() {
            let constraints = || [row.first.clone(), row.storage.clone(), row.gpu.clone()].concat();
            assert_eq!(matches_by(Matching::Strict, constraints(), &row.hardware), row.strict, "case {}", row.name);
            // Marketing names change row A and nothing else.
            let extended = row.strict || row.name == "A";
            let found = matches_by(Matching::WithMarketingNames, constraints(), &row.hardware);
            assert_eq!(found, extended, "case {} with marketing names", row.name);
        }
    }

    #[test]
    fn worked_cases_of_the_small_machine() {
        let with =
            |storage: Option<Constraint>| [vec![cores(1, 4, ""), memory(0, 8)], storage.into_iter().collect()].concat();
        for (name, storage, expected) in
            [("O", None, true), ("P", Some(storage(0, 1, "")), true), ("Q", Some(storage(1, 1, "")), false)]
        {
            assert_eq!(matches_by(Matching::Strict, with(storage), &small_machine(2)), expected, "case {name}");
        }
    }

    #[test]
    fn worked_cases_over_all_sizes() {
        let sizes =
            [size("X", vec![cores(1, 4, ""), memory(0, 8)]), size("Y", vec![cores(4, 8, "QEMU*"), memory(0, 8)])];
        assert_eq!(overlap(&sizes[1], &sizes), None::<SizeFault>, "the overlap check lets this pair in");
        let judged = |cores| judge(&sizes, &small_machine(cores), Matching::Strict);
        let several = judged(4);
        assert_eq!((several.id.as_deref(), several.matching.len()), (None, 2), "case T");
        assert_eq!(several.to_string(), "2 sizes found: X, Y", "case T");
        assert_eq!(judged(5).id.as_deref(), Some("Y"), "case U");
        assert_eq!((judged(16).id, judged(16).matching.len()), (None, 0), "case V");
        let empty = judge(&[size("empty", vec![])], &small_machine(1), Matching::Strict);
        assert_eq!(empty.to_string(), "no size matches; empty: has no constraints", "case W");
        assert_eq!(
            judge(&[], &small_machine(1), Matching::Strict).to_string(),
            "no size matches, since there are none"
        );
    }

    #[test]
    fn marketing_names_select_one_product_of_a_chip() {
        let models = [
            ("GH100 [H100 SXM5 80GB]", "H100*", true),
            ("GH100 [H100 PCIe]", "H100*", true),
            ("GH100[H100 SXM5 80GB]", "H100*", true),
            ("GH100 [H200 SXM 141GB]", "H100*", false),
            ("GH100 [H200 NVL]", "H100*", false),
            ("GH100 [H200 NVL]", "H200*", true),
            ("GH100 [GH200 120GB / 480GB]", "H100*", false),
            ("GH100 [GH200 120GB / 480GB]", "GH200*", false),
            ("GH100 [GH200 120GB / 480GB]", "GH200*/*", true),
            ("GA100 [A100 SXM4 80GB]", "A100*80GB", true),
            ("AD102GL [L40S]", "L40S", true),
            ("AD102GL [L40S]", "L4", false),
            ("TU102GL [Quadro RTX 6000/8000]", "Quadro RTX 6000*", false),
            ("GB100 [B200]", "b200", false),
            ("2330", "H100*", false),
            ("GH100 [", "*", true),
            ("GH100 []", "", true),
        ];
        for (model, identifier, expected) in models {
            let item = Item::gpu(model, Matching::WithMarketingNames);
            let constraint = gpu(1, 1, identifier);
            assert_eq!(constraint.covers(&item), expected, "{identifier} on {model}");
            let strict = Item::gpu(model, Matching::Strict);
            let as_metal_api = identifier.is_empty() || glob::matches(identifier, model) == Ok(true);
            assert_eq!(constraint.covers(&strict), as_metal_api, "{identifier} on {model}, strict");
        }
    }

    #[test]
    fn brackets_of_disks_and_cpus_are_no_marketing_names() {
        let mut machine = small_machine(2);
        machine.cpus[0].model = "Some CPU [Fast]".into();
        machine.disks = vec![disk("/dev/x [sda]", 1)];
        let constraints = |cpu: &str, disk: &str| vec![cores(1, 4, cpu), memory(0, 8), storage(0, 9, disk)];
        assert!(matches_by(Matching::default(), constraints("Some*", "/dev/*"), &machine));
        assert!(!matches_by(Matching::default(), constraints("Fast", "/dev/*"), &machine));
        assert!(!matches_by(Matching::default(), constraints("Some*", "sda"), &machine));
    }

    #[test]
    fn the_first_obstacle_of_each_size_is_told() {
        let first = |constraints| miss(&size("x", constraints), &gpu_server(), Matching::Strict).unwrap();
        let rest = || vec![memory(1000, 1100), storage(8000, 9000, "")];
        /// Constraints, and what is told: the constraint's index, the device, the beginning of the reason.
        type Case = (Vec<Constraint>, Option<usize>, Option<&'static str>, &'static str);
        let cases: Vec<Case> = vec![
            (vec![cores(1, 4, ""), memory(0, 8)], Some(0), None, "cores: expected 1 to 4, found 56"),
            (
                vec![cores(56, 56, ""), memory(0, 8)],
                Some(1),
                None,
                "memory: expected 0 to 8589934592 bytes (0 B to 8.5 GB), found 1099511627776 bytes (1.0 TB)",
            ),
            (
                [vec![cores(56, 56, "")], rest(), vec![gpu(8, 8, "H100*")]].concat(),
                Some(3),
                None,
                "gpu H100*: expected 8, found 0 (it matches none of 8 \"GH100 [H100 SXM5 80GB]\")",
            ),
            (
                [vec![cores(56, 56, "")], rest()].concat(),
                None,
                Some(H100),
                "no constraint covers gpu GH100 [H100 SXM5 80GB]",
            ),
            (
                vec![cores(56, 56, ""), storage(7000, 9000, "/dev/nvme*")],
                None,
                Some("memory"),
                "no constraint covers memory",
            ),
            (
                vec![cores(56, 56, ""), memory(1000, 1100), storage(7000, 9000, "/dev/nvme*")],
                None,
                Some("/dev/sda"),
                "no constraint covers storage /dev/sda",
            ),
            (vec![memory(1000, 1100)], None, Some(XEON), "no constraint covers cores Intel(R) Xeon(R) Gold"),
            (
                vec![constraint(Kind::Other("nvram".into()), 0, 1, "")],
                Some(0),
                None,
                "constraint type \"nvram\" is unknown",
            ),
        ];
        for (constraints, constraint, device, reason) in cases {
            let miss = first(constraints);
            assert_eq!((miss.constraint, miss.device.as_deref()), (constraint, device), "{reason}");
            assert!(miss.reason.starts_with(reason), "{}", miss.reason);
        }
    }

    #[test]
    fn a_sum_that_is_too_large_for_a_number_is_no_small_one() {
        let mut machine = small_machine(2);
        machine.disks = vec![disk("/dev/sda", u64::MAX / GIB), disk("/dev/sdb", u64::MAX / GIB)];
        assert!(!matches_by(Matching::Strict, vec![cores(1, 4, ""), memory(0, 8), storage(0, 100, "")], &machine));
    }

    #[test]
    fn the_answer_as_json_names_every_size() {
        let sizes = [size("X", vec![cores(1, 4, ""), memory(0, 8)]), size("Y", vec![cores(5, 8, ""), memory(0, 8)])];
        let json = serde_json::to_value(judge(&sizes, &small_machine(2), Matching::Strict)).unwrap();
        let misses = serde_json::json!([{ "size": "Y", "constraint": 0, "reason": "cores: expected 5 to 8, found 2" }]);
        assert_eq!(json, serde_json::json!({ "id": "X", "matching": ["X"], "misses": misses }));
    }
}
