//! The runs that this process is claiming or works on. What the database takes it to be working on
//! beyond these, it has lost sight of.

use crate::domain::RunId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How often each run is in work: two hints may name the same one.
#[derive(Debug, Default)]
pub struct InWork {
    runs: Mutex<HashMap<RunId, u32>>,
}

/// Keeps a run noted, also when its task is dropped.
#[derive(Debug)]
pub struct Noted<'a> {
    all: &'a InWork,
    run: RunId,
}

impl InWork {
    /// To be called before the claim is sent, so that no claim is unknown when it is committed.
    pub fn note(&self, run: RunId) -> Noted<'_> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        *runs.entry(run).or_default() += 1;
        Noted { all: self, run }
    }

    /// Whether a run is in work.
    pub fn has(&self, run: RunId) -> bool {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.contains_key(&run)
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut runs = self.all.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = runs.get_mut(&self.run) {
            *count -= 1;
            if *count == 0 {
                runs.remove(&self.run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_known_until_the_last_one_lets_go() {
        let all = InWork::default();
        let first = all.note(RunId(1));
        let second = all.note(RunId(1));
        drop(first);
        assert!(all.has(RunId(1)));
        assert!(!all.has(RunId(2)));
        drop(second);
        assert!(!all.has(RunId(1)));
        assert!(all.runs.lock().unwrap().is_empty());
    }
}
