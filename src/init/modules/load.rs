//! Loading: everything the hardware asks for, in parallel, each module after those it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;

use super::db::ModuleDb;
use super::parameters::ModuleParameters;
use super::unwanted::{WANTED, reason_against};
use crate::inventory::attribute::{read_names, read_text};
use crate::sys::module::{InsertError, insert};
use crate::sys::roots::Roots;

/// A driver's devices ask for more drivers (a controller, its bus, its disks): four levels are usual.
const MOST_ROUNDS: usize = 12;
/// More than cores on purpose: a driver mostly waits for its hardware.
const THREADS: usize = 8;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// In the order in which they were ready.
    pub loaded: Vec<String>,
    /// Module and reason.
    pub failed: Vec<(String, String)>,
    /// Modules that the hardware asked for and that were left out, with the reason.
    pub left_out: BTreeMap<String, String>,
    /// How many times new devices asked for more.
    pub rounds: usize,
}

/// How one module ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Loaded,
    /// The kernel has it, but its hardware is not there: usual for drivers of a CPU's features.
    NoDevice,
    Failed(String),
}

/// Puts one module into the kernel: its name, its file, its parameters.
pub type Insert<'a> = dyn Fn(&str, &Path, &str) -> Outcome + Sync + 'a;

/// Loads named modules and what they need; a name may be an alias. Those built in or not there are passed over.
pub fn load_named(roots: &Roots, db: &ModuleDb, names: &[&str], say: &mut dyn FnMut(&str)) -> LoadReport {
    let mut report = LoadReport::default();
    let parameters = ModuleParameters::read(&roots.proc);
    let plan = plan(db, names.iter().flat_map(|name| db.load_order(name)), &mut BTreeSet::new());
    run(db, &plan, &parameters, &|_, file, parameters| outcome(insert(file, parameters)), &mut report);
    tell(&report, say);
    report
}

/// Loads the drivers of all devices, those of the devices that appear by that, and the modules that the agent itself
/// wants. It knows which devices it has seen, so that those that come later get their drivers, too.
///
/// No failure is fatal: without one driver the machine may still do. Call [`super::settle()`] afterwards, and
/// [`super::usb::wait_for_disks`] before the disks are counted.
pub struct Loader<'a> {
    roots: &'a Roots,
    db: &'a ModuleDb,
    parameters: ModuleParameters,
    seen_aliases: BTreeSet<String>,
    done: BTreeSet<String>,
    wanted: Vec<String>,
}

impl<'a> Loader<'a> {
    pub fn new(roots: &'a Roots, db: &'a ModuleDb) -> Self {
        Self {
            roots,
            db,
            parameters: ModuleParameters::read(&roots.proc),
            seen_aliases: BTreeSet::new(),
            done: BTreeSet::new(),
            wanted: WANTED.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// Loads what devices ask for that were not seen before. `say` gets a line for the console for all that a person
    /// should know; nothing where nothing was new.
    pub fn load(&mut self, say: &mut dyn FnMut(&str)) -> LoadReport {
        self.load_with(say, &|_, file, parameters| outcome(insert(file, parameters)))
    }

    /// [`Self::load`] with another way of putting a module into the kernel.
    pub fn load_with(&mut self, say: &mut dyn FnMut(&str), insert: &Insert) -> LoadReport {
        let mut report = LoadReport::default();
        let db = self.db;
        if db.is_empty() {
            if !self.wanted.is_empty() {
                let dir = db.dir().display();
                say(&format!("drivers: no modules in {dir}, only those built into the kernel"));
                self.wanted.clear();
            }
            return report;
        }
        let first = !self.wanted.is_empty();
        while report.rounds < MOST_ROUNDS {
            let new: Vec<String> = read_modaliases(self.roots).difference(&self.seen_aliases).cloned().collect();
            if new.is_empty() && self.wanted.is_empty() {
                break;
            }
            report.rounds += 1;
            let asked_for = modules_of(db, &new, &self.parameters, &mut report.left_out);
            let names = asked_for.iter().chain(&self.wanted).flat_map(|name| db.load_order(name));
            let plan = plan(db, names, &mut self.done);
            run(db, &plan, &self.parameters, insert, &mut report);
            self.seen_aliases.extend(new);
            self.wanted.clear();
        }
        if first || report != (LoadReport { rounds: report.rounds, ..LoadReport::default() }) {
            tell(&report, say);
        }
        report
    }
}

fn tell(report: &LoadReport, say: &mut dyn FnMut(&str)) {
    for (name, reason) in &report.failed {
        say(&format!("drivers: {name} is not loaded: {reason}"));
    }
    say(&format!("drivers: {} loaded: {}", report.loaded.len(), report.loaded.join(" ")));
}

/// What all devices say they are. `/sys/bus` has every device that a driver can be bound to.
pub fn read_modaliases(roots: &Roots) -> BTreeSet<String> {
    let bus = roots.sys.join("bus");
    let devices = read_names(&bus).unwrap_or_default().into_iter().flat_map(|name| {
        let devices = bus.join(name).join("devices");
        read_names(&devices).unwrap_or_default().into_iter().map(move |device| devices.join(device))
    });
    devices.filter_map(|device| read_text(&device.join("modalias"))).collect()
}

/// The modules that devices ask for, without those that are not to be loaded.
fn modules_of(
    db: &ModuleDb,
    modaliases: &[String],
    parameters: &ModuleParameters,
    left_out: &mut BTreeMap<String, String>,
) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = modaliases.iter().flat_map(|modalias| db.modules_for(modalias)).collect();
    wanted.retain(|name| {
        let path = db.get(name).map_or("", |module| &module.path);
        let reason = match reason_against(name, path) {
            _ if parameters.is_blacklisted(name) => Some("blacklisted on the kernel command line"),
            reason => reason,
        };
        if let Some(reason) = reason {
            left_out.insert(name.clone(), reason.to_owned());
        }
        reason.is_none()
    });
    wanted
}

/// One module to load, and which of the plan come before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    name: String,
    /// Indices of smaller numbers, so that no circle of soft dependencies can stop everything.
    after: Vec<usize>,
    /// Without these it cannot work.
    needs: Vec<usize>,
}

/// The modules of `names`, which are in load order, that have not been `done`.
fn plan(db: &ModuleDb, names: impl Iterator<Item = String>, done: &mut BTreeSet<String>) -> Vec<Step> {
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    // Steps that ask for a module after them.
    let mut followed: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut steps: Vec<Step> = Vec::new();
    for name in names {
        let Some(module) = db.get(&name) else { continue };
        if !done.insert(name.clone()) {
            continue;
        }
        let known = |names: &mut dyn Iterator<Item = String>| -> Vec<usize> {
            names.filter_map(|name| index.get(&name).copied()).collect()
        };
        let needs = known(&mut module.needs.iter().cloned());
        let mut after = known(&mut module.soft_before.iter().flat_map(|name| db.resolve(name)));
        after.extend(followed.remove(&name).unwrap_or_default());
        for follower in module.soft_after.iter().flat_map(|name| db.resolve(name)) {
            followed.entry(follower).or_default().push(steps.len());
        }
        index.insert(name.clone(), steps.len());
        steps.push(Step { name, after, needs });
    }
    steps
}

/// Runs a plan with some threads; each takes the first step whose predecessors have ended.
fn run(db: &ModuleDb, plan: &[Step], parameters: &ModuleParameters, insert: &Insert, report: &mut LoadReport) {
    let progress = Mutex::new(Progress { states: vec![State::Waiting; plan.len()], ended: Vec::new() });
    let changed = Condvar::new();
    let work = || {
        let mut progress_now = progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match progress_now.next(plan) {
                Next::Done => return,
                Next::Wait => progress_now = changed.wait(progress_now).unwrap_or_else(PoisonError::into_inner),
                Next::Blocked(step, needed) => {
                    let reason = format!("it needs {needed}, which is not loaded");
                    progress_now.end(step, Outcome::Failed(reason));
                    changed.notify_all();
                }
                Next::Step(step, name) => {
                    drop(progress_now);
                    let outcome = match db.file(name) {
                        Some(file) => insert(name, &file, parameters.of(name)),
                        None => Outcome::Failed("not in modules.dep".to_owned()),
                    };
                    progress_now = progress.lock().unwrap_or_else(PoisonError::into_inner);
                    progress_now.end(step, outcome);
                    changed.notify_all();
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(plan.len()) {
            // Without memory for a thread the others do its work; this one is always there.
            if thread::Builder::new().name("drivers".to_owned()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let ended = progress.into_inner().unwrap_or_else(PoisonError::into_inner).ended;
    for (step, outcome) in ended {
        let Some(Step { name, .. }) = plan.get(step) else { continue };
        match outcome {
            Outcome::Loaded => report.loaded.push(name.clone()),
            Outcome::NoDevice => {}
            Outcome::Failed(reason) => report.failed.push((name.clone(), reason)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Loaded,
    NotLoaded,
}

struct Progress {
    states: Vec<State>,
    ended: Vec<(usize, Outcome)>,
}

enum Next<'a> {
    Step(usize, &'a str),
    /// A step that will never work, and the name of what it lacks.
    Blocked(usize, &'a str),
    /// All that is left waits for what is running.
    Wait,
    Done,
}

impl Progress {
    fn next<'a>(&mut self, plan: &'a [Step]) -> Next<'a> {
        for (number, step) in plan.iter().enumerate() {
            if self.state(number) != State::Waiting {
                continue;
            }
            if let Some(needed) = step.needs.iter().find(|needed| self.state(**needed) == State::NotLoaded) {
                return Next::Blocked(number, plan.get(*needed).map_or("", |step| &step.name));
            }
            let has_ended = |before: &usize| matches!(self.state(*before), State::Loaded | State::NotLoaded);
            if step.needs.iter().chain(&step.after).all(has_ended) {
                self.set(number, State::Running);
                return Next::Step(number, &step.name);
            }
        }
        if self.states.contains(&State::Running) { Next::Wait } else { Next::Done }
    }

    fn end(&mut self, step: usize, outcome: Outcome) {
        self.set(step, if outcome == Outcome::Loaded { State::Loaded } else { State::NotLoaded });
        self.ended.push((step, outcome));
    }

    fn state(&self, step: usize) -> State {
        self.states.get(step).copied().unwrap_or(State::NotLoaded)
    }

    fn set(&mut self, step: usize, state: State) {
        if let Some(place) = self.states.get_mut(step) {
            *place = state;
        }
    }
}

/// The kernel's answer as a person reads it.
fn outcome(result: Result<(), InsertError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Loaded,
        Err(InsertError::Kernel(Errno::ENODEV)) => Outcome::NoDevice,
        Err(InsertError::Kernel(Errno::ENOEXEC)) => {
            Outcome::Failed("it is made for another kernel (ENOEXEC)".to_owned())
        }
        Err(InsertError::Kernel(Errno::ENOENT)) => {
            Outcome::Failed("it needs a symbol that the kernel does not have (ENOENT)".to_owned())
        }
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Outcome::Failed(format!("{error}{cause}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_the_kernels_number_means() {
        let kernel = |errno| outcome(Err(InsertError::Kernel(errno)));
        assert_eq!(kernel(Errno::ENODEV), Outcome::NoDevice);
        assert!(matches!(kernel(Errno::ENOEXEC), Outcome::Failed(reason) if reason.contains("another kernel")));
        assert!(matches!(kernel(Errno::EINVAL), Outcome::Failed(reason) if reason.contains("EINVAL")));
    }
}
