//! What may be stored as a size: metal-api's rules, and unknown types refused.

use super::{Kind, Size, UNKNOWN};
use crate::anvil::glob;

/// What is wrong with a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeFault {
    /// Of the request: 400.
    #[error("{0}")]
    Id(String),
    /// Of the content: 422.
    #[error("{0}")]
    Constraint(String),
    /// Of the collection: 400.
    #[error("size {0:?} overlaps with {1:?}")]
    Overlap(String, String),
}

/// Everything wrong with a size by itself.
pub fn validate(size: &Size) -> Vec<SizeFault> {
    let mut faults = Vec::new();
    if size.id.is_empty() || size.id == UNKNOWN {
        faults.push(SizeFault::Id(format!("id: expected a name other than {UNKNOWN:?}, found {:?}", size.id)));
    }
    let mut fault = |text: String| faults.push(SizeFault::Constraint(text));
    for (index, constraint) in size.constraints.iter().enumerate() {
        let at = format!("constraints[{index}] ({})", constraint.kind.as_str());
        if constraint.max < constraint.min {
            fault(format!("{at}: max {} is less than min {}", constraint.max, constraint.min));
        }
        if glob::check(&constraint.identifier).is_err() {
            fault(format!("{at}: identifier {:?} is no valid pattern", constraint.identifier));
        }
        match constraint.kind {
            Kind::Gpu if constraint.identifier.is_empty() => fault(format!("{at}: identifier is missing")),
            Kind::Memory if !constraint.identifier.is_empty() => {
                fault(format!("{at}: memory takes no identifier, found {:?}", constraint.identifier));
            }
            Kind::Other(_) | Kind::Absent => {
                fault(format!("{at}: type: expected cores, memory, storage or gpu"));
            }
            Kind::Cores | Kind::Memory | Kind::Storage | Kind::Gpu => {}
        }
    }
    for kind in [Kind::Memory, Kind::Cores] {
        let count = size.constraints.iter().filter(|c| c.kind == kind).count();
        if count > 1 {
            fault(format!("constraints: expected at most one of type {}, found {count}", kind.as_str()));
        }
    }
    faults
}

/// The first size that `size` overlaps with, itself excepted.
pub fn overlap(size: &Size, others: &[Size]) -> Option<SizeFault> {
    others
        .iter()
        .find(|other| other.id != size.id && overlaps(size, other))
        .map(|other| SizeFault::Overlap(size.id.clone(), other.id.clone()))
}

/// Every pair of constraints of one type must overlap, and identifiers count as text, as in metal-api: so it does not
/// find every pair of sizes that one machine can match.
fn overlaps(one: &Size, other: &Size) -> bool {
    let kinds = |size: &Size| {
        let mut kinds: Vec<Kind> = size.constraints.iter().map(|c| c.kind.clone()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    if one.constraints.is_empty() || other.constraints.is_empty() || kinds(one) != kinds(other) {
        return false;
    }
    one.constraints.iter().all(|a| {
        other
            .constraints
            .iter()
            .filter(|b| b.kind == a.kind)
            .all(|b| a.identifier == b.identifier && a.min <= b.max && b.min <= a.max)
    })
}

/// What is allowed, and hardly meant.
pub fn notes(size: &Size) -> Vec<String> {
    if size.constraints.is_empty() {
        return vec!["has no constraints, and so matches no machine".to_owned()];
    }
    let mut notes = Vec::new();
    if !size.constraints.iter().any(|constraint| constraint.kind == Kind::Memory) {
        notes.push("has no constraint of type memory, and so matches no machine".to_owned());
    }
    for (index, constraint) in size.constraints.iter().enumerate() {
        let identifier = &constraint.identifier;
        let at = format!("constraints[{index}] ({}): identifier {identifier:?}", constraint.kind.as_str());
        let has_set = identifier.replace("\\[", "").contains('[');
        match constraint.kind {
            Kind::Gpu if has_set => {
                notes.push(format!(
                    "{at}: brackets are a set of characters; for the brackets of a model write \\[ and \\]"
                ));
            }
            Kind::Storage if !identifier.is_empty() && !identifier.contains('/') && !has_set => {
                notes.push(format!("{at}: matches no disk, since their names begin with /dev/"));
            }
            Kind::Cores | Kind::Memory | Kind::Storage | Kind::Gpu | Kind::Other(_) | Kind::Absent => {}
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;

    /// Section 5 of the contract, row by row, but for the overlap.
    #[test]
    fn each_rule_is_checked() {
        let good = || vec![cores(1, 1, ""), memory(0, 1), storage(0, 1, "/dev/sd[a-c]"), gpu(1, 1, "*")];
        let with = |constraint| size("a", [good(), vec![constraint]].concat());
        let cases = [
            (size("", good()), true, "id: expected a name other than \"unknown\", found \"\""),
            (size("unknown", good()), true, "id: expected a name other than \"unknown\", found \"unknown\""),
            (with(storage(4, 2, "")), false, "constraints[4] (storage): max 2147483648 is less than min 4294967296"),
            (with(storage(1, 1, "a[")), false, "constraints[4] (storage): identifier \"a[\" is no valid pattern"),
            (with(gpu(1, 1, "")), false, "constraints[4] (gpu): identifier is missing"),
            (
                size("a", vec![constraint(Kind::Memory, 0, 1, "x")]),
                false,
                "constraints[0] (memory): memory takes no identifier, found \"x\"",
            ),
            (with(memory(0, 1)), false, "constraints: expected at most one of type memory, found 2"),
            (with(cores(1, 1, "")), false, "constraints: expected at most one of type cores, found 2"),
            (
                with(constraint(Kind::Other("nvram".into()), 0, 1, "")),
                false,
                "constraints[4] (nvram): type: expected cores, memory, storage or gpu",
            ),
            (with(constraint(Kind::Absent, 0, 1, "")), false, "constraints[4] (): type: expected cores"),
        ];
        assert_eq!(validate(&size("a", good())), []);
        for (size, of_the_id, expected) in cases {
            let faults = validate(&size);
            let [fault] = faults.as_slice() else { panic!("{expected}: {faults:?}") };
            assert!(fault.to_string().starts_with(expected), "{fault}");
            assert_eq!(matches!(fault, SizeFault::Id(_)), of_the_id, "{fault}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let bad = size("unknown", vec![cores(4, 2, ""), cores(1, 1, "a["), gpu(1, 1, "")]);
        assert_eq!(validate(&bad).len(), 5, "{:?}", validate(&bad));
    }

    #[test]
    fn overlap_needs_the_same_types_identifiers_and_ranges() {
        let a = size("a", vec![cores(1, 4, ""), memory(0, 8)]);
        let b = size("b", vec![cores(4, 8, ""), memory(8, 9)]);
        assert_eq!(overlap(&a, &[b]).unwrap().to_string(), "size \"a\" overlaps with \"b\"");
        let apart = size("b", vec![cores(5, 8, ""), memory(0, 8)]);
        let more_types = size("b", vec![cores(1, 4, ""), memory(0, 8), storage(0, 1, "")]);
        assert_eq!(overlap(&a, &[apart, more_types, a.clone(), size("none", vec![])]), None);
        assert_eq!(overlap(&size("none", vec![]), std::slice::from_ref(&a)), None);
    }

    /// As in metal-api, so that both take and refuse the same sizes.
    #[test]
    fn the_weaknesses_of_the_overlap_check_are_kept() {
        let disks = |id| size(id, vec![memory(0, 8), storage(0, 1, "/dev/nvme*"), storage(0, 1, "/dev/sd*")]);
        assert_eq!(overlap(&disks("a"), &[disks("b")]), None, "cross pairs differ in their identifiers");
        let one = |id, identifier| size(id, vec![memory(0, 8), storage(0, 1, identifier)]);
        assert_eq!(overlap(&one("a", ""), &[one("b", "/dev/*")]), None, "identifiers are compared as text");
    }

    #[test]
    fn hints_at_what_was_hardly_meant() {
        let noted = |constraints| notes(&size("a", constraints)).join("; ");
        assert_eq!(noted(vec![]), "has no constraints, and so matches no machine");
        assert_eq!(noted(vec![cores(1, 1, "")]), "has no constraint of type memory, and so matches no machine");
        assert!(noted(vec![memory(0, 1), gpu(1, 1, H100)]).contains("brackets are a set"));
        assert!(noted(vec![memory(0, 1), storage(0, 1, "nvme*")]).contains("matches no disk"));
        let fine = vec![memory(0, 1), gpu(1, 1, r"GH100 \[H100*"), storage(0, 1, "/dev/[sv]d?"), storage(0, 1, "")];
        assert_eq!(noted(fine), "");
    }
}
