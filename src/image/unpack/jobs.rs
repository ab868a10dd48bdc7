//! What waits to be done, by the directory that it is done in.
//!
//! A directory takes one new name at a time: the kernel locks it meanwhile (`fs/namei.c`), and two threads with files of
//! one directory wait for each other. So each is given a directory of its own as long as there are enough.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// `D` tells directories apart, `J` is a job in one.
pub(super) struct Jobs<D, J> {
    /// None of them is empty. In the order in which they came.
    directories: VecDeque<(D, VecDeque<J>)>,
    /// Where each thread took its last job, by its number.
    last: HashMap<usize, D>,
    count: usize,
}

impl<D, J> Default for Jobs<D, J> {
    fn default() -> Self {
        Self { directories: VecDeque::new(), last: HashMap::new(), count: 0 }
    }
}

impl<D: Copy + Eq + Hash, J> Jobs<D, J> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, directory: D, job: J) {
        self.count += 1;
        // archives list a directory in one go: mostly it is the last
        match self.directories.iter_mut().rev().find(|(known, _)| *known == directory) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.directories.push_back((directory, VecDeque::from([job]))),
        }
    }

    /// For a thread, by its number: from the directory that it is in, else from one in which no other is, else from any.
    pub(super) fn take(&mut self, thread: usize) -> Option<J> {
        let own = self.last.get(&thread).copied();
        let is_free = |directory: &D| self.last.iter().all(|(other, last)| *other == thread || last != directory);
        let index = self
            .directories
            .iter()
            .position(|(directory, _)| Some(*directory) == own)
            .or_else(|| self.directories.iter().position(|(directory, _)| is_free(directory)))
            .unwrap_or(0);
        let (directory, jobs) = self.directories.get_mut(index)?;
        let job = jobs.pop_front()?;
        self.last.insert(thread, *directory);
        if jobs.is_empty() {
            self.directories.remove(index);
        }
        self.count -= 1;
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::Jobs;

    /// Named by its directory and its number there.
    fn jobs(names: &[&'static str]) -> Jobs<char, &'static str> {
        let mut jobs = Jobs::default();
        for name in names {
            jobs.push(name.chars().next().unwrap(), *name);
        }
        jobs
    }

    #[test]
    fn each_thread_has_a_directory_of_its_own() {
        let mut jobs = jobs(&["a1", "a2", "b1", "a3", "b2", "c1"]);
        assert_eq!(jobs.take(0), Some("a1"));
        assert_eq!(jobs.take(1), Some("b1"));
        assert_eq!(jobs.take(1), Some("b2"));
        assert_eq!(jobs.take(0), Some("a2"));
        assert_eq!(jobs.take(1), Some("c1"), "a is the other's");
        assert_eq!(jobs.take(0), Some("a3"));
        assert_eq!((jobs.take(0), jobs.take(1), jobs.is_empty()), (None, None, true));
    }

    #[test]
    fn one_directory_keeps_all_of_them_busy() {
        let mut jobs = jobs(&["a1", "a2", "a3", "a4"]);
        let taken: Vec<_> = [0, 1, 2, 0].into_iter().filter_map(|thread| jobs.take(thread)).collect();
        assert_eq!(taken, ["a1", "a2", "a3", "a4"]);
    }

    #[test]
    fn a_directory_that_ran_out_and_comes_again_is_the_same() {
        let mut jobs = jobs(&["a1", "b1"]);
        assert_eq!(jobs.take(0), Some("a1"));
        jobs.push('a', "a2");
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs.take(1), Some("b1"), "a is still the other's");
        assert_eq!(jobs.take(0), Some("a2"));
    }
}
