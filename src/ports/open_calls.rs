//! The calls of a check that have no result yet: what a slow run waits for.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;

/// The open calls of one check. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls(Arc<Mutex<Vec<Option<Entry>>>>);

#[derive(Debug)]
struct Entry {
    call: &'static str,
    attempt: u32,
    began: Instant,
}

/// A call without a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenCall {
    /// Its name in metrics and logs.
    pub call: String,
    /// Number of the request, from 1. A pause before the next one belongs to the call.
    pub attempt: u32,
    /// Since the call began.
    pub seconds: f64,
}

/// Keeps a call open until it is dropped.
#[derive(Debug)]
pub struct OpenCallGuard<'a> {
    calls: &'a OpenCalls,
    place: usize,
}

impl OpenCalls {
    /// Records that a call begins.
    pub fn begin(&self, call: &'static str) -> OpenCallGuard<'_> {
        let entry = Entry {
            call,
            attempt: 1,
            began: Instant::now(),
        };
        let mut calls = self.0.lock();
        let place = match calls.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                calls.push(None);
                calls.len() - 1
            }
        };
        calls[place] = Some(entry);
        OpenCallGuard { calls: self, place }
    }

    /// Returns the open calls, in any order.
    pub fn list(&self) -> Vec<OpenCall> {
        let calls = self.0.lock();
        let open = calls.iter().flatten();
        open.map(|entry| OpenCall {
            call: entry.call.to_owned(),
            attempt: entry.attempt,
            seconds: entry.began.elapsed().as_secs_f64(),
        })
        .collect()
    }
}

impl OpenCallGuard<'_> {
    /// Records that the request with this number follows.
    pub fn retry(&self, attempt: u32) {
        if let Some(entry) = &mut self.calls.0.lock()[self.place] {
            entry.attempt = attempt;
        }
    }
}

impl Drop for OpenCallGuard<'_> {
    fn drop(&mut self) {
        self.calls.0.lock()[self.place] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_open_until_its_guard_is_dropped() {
        let calls = OpenCalls::default();
        let names = || {
            let mut open: Vec<_> = calls
                .list()
                .into_iter()
                .map(|c| (c.call, c.attempt))
                .collect();
            open.sort();
            open
        };
        let token = calls.begin("token");
        let organization = calls.begin("organization");
        organization.retry(2);
        assert_eq!(
            names(),
            [("organization".to_owned(), 2), ("token".to_owned(), 1)]
        );
        drop(token);
        let _grants = calls.begin("grants");
        assert_eq!(
            names(),
            [("grants".to_owned(), 1), ("organization".to_owned(), 2)]
        );
    }
}
