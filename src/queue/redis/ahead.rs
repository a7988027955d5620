//! Fetches more than one delivery at a time.
//!
//! A delivery that apalis has fetched and not yet started keeps it from heartbeats and
//! acknowledgements, so it is told to fetch one by one. That costs a round trip for each, and is the
//! limit under load. So its command is widened on the way to the server, to as many as the consumer
//! has free slots, and what comes beyond the first waits here for its next commands. The server has
//! noted all of them as held by this worker: when it ends, they go back with the others (`custody`).

use super::keys::Keys;
use redis::{Arg, Cmd, Value};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Most deliveries in one answer. More would hardly save anything, and the other processes that are
/// free at the same time shall have their share of a burst.
const MOST: usize = 16;

/// The fetch of apalis-redis 1.0: `EVALSHA sha 7 workers active inflight data signal meta scheduled
/// time COUNT worker`.
const ARGUMENTS: usize = 13;
const COUNT: usize = 11;

/// What one worker has fetched ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    waiting: Mutex<VecDeque<(Value, Value)>>,
    /// The same over all workers of the consumer.
    all: Arc<AtomicUsize>,
    slots: Arc<Semaphore>,
}

impl Ahead {
    /// `slots`: one permit for each delivery in work. `all`: shared by all workers that share them.
    pub fn new(slots: Arc<Semaphore>, all: Arc<AtomicUsize>) -> Self {
        Self {
            waiting: Mutex::default(),
            all,
            slots,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Value, Value)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a fetch, when something waits for it.
    pub fn next(&self) -> Option<Value> {
        let (data, meta) = self.lock().pop_front()?;
        self.all.fetch_sub(1, Ordering::Relaxed);
        Some(answer(data, meta))
    }

    /// The same command, for as many as can be worked on right away.
    pub fn widened(&self, fetch: &Cmd) -> Cmd {
        let spoken_for = self.all.load(Ordering::Relaxed);
        let free = self.slots.available_permits().saturating_sub(spoken_for);
        let count = free.clamp(1, MOST).to_string();
        let mut wide = Cmd::new();
        for (i, argument) in fetch.args_iter().enumerate() {
            match argument {
                Arg::Simple(_) if i == COUNT => wide.arg(&count),
                Arg::Simple(bytes) => wide.arg(bytes),
                _ => return fetch.clone(),
            };
        }
        wide
    }

    /// Keeps all but the first. An answer of another shape is passed on as it is.
    pub fn keep(&self, fetched: Value) -> Value {
        let Value::Array(parts) = fetched else {
            return fetched;
        };
        match <[Value; 2]>::try_from(parts) {
            Ok([Value::Array(data), Value::Array(meta)])
                if data.len() == meta.len() && data.len() > 1 =>
            {
                let mut both = data.into_iter().zip(meta);
                let first = both.next();
                let mut waiting = self.lock();
                let before = waiting.len();
                waiting.extend(both);
                self.all
                    .fetch_add(waiting.len() - before, Ordering::Relaxed);
                first.map_or(Value::Nil, |(data, meta)| answer(data, meta))
            }
            Ok(parts) => Value::Array(parts.into()),
            Err(parts) => Value::Array(parts),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let waiting = self.lock().len();
        self.all.fetch_sub(waiting, Ordering::Relaxed);
    }
}

fn answer(data: Value, meta: Value) -> Value {
    Value::Array(vec![Value::Array(vec![data]), Value::Array(vec![meta])])
}

/// Whether this is apalis' command to fetch from this queue.
pub(super) fn is_fetch(command: &Cmd, keys: &Keys) -> bool {
    let mut arguments = command.args_iter();
    let mut is = |at: usize, wanted: &str| matches!(arguments.nth(at), Some(Arg::Simple(found)) if found == wanted.as_bytes());
    // Counted from the one before.
    is(0, "EVALSHA")
        && is(1, "7")
        && is(0, &keys.workers)
        && is(0, &keys.active)
        && arguments.count() == ARGUMENTS - 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(keys: &Keys) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command
            .arg("sha")
            .arg(7)
            .arg(&keys.workers)
            .arg(&keys.active);
        for rest in [
            "inflight",
            "data",
            "signal",
            "meta",
            "scheduled",
            "17",
            "1",
            "me",
        ] {
            command.arg(rest);
        }
        command
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn fetched(ids: &[&str]) -> Value {
        Value::Array(vec![
            Value::Array(ids.iter().map(|id| text(id)).collect()),
            Value::Array(ids.iter().map(|id| Value::Array(vec![text(id)])).collect()),
        ])
    }

    #[test]
    fn a_fetch_is_told_from_other_commands() {
        let keys = Keys::new("q");
        assert!(is_fetch(&fetch(&keys), &keys));
        assert!(!is_fetch(&fetch(&Keys::new("other")), &keys));
        let mut longer = fetch(&keys);
        longer.arg("more");
        assert!(!is_fetch(&longer, &keys));
        assert!(!is_fetch(&redis::cmd("PING"), &keys));
    }

    #[test]
    fn a_fetch_asks_for_as_many_as_have_a_slot() {
        let keys = Keys::new("q");
        let slots = Arc::new(Semaphore::new(5));
        let all = Arc::new(AtomicUsize::new(0));
        let ahead = Ahead::new(Arc::clone(&slots), Arc::clone(&all));
        let asked = |ahead: &Ahead| {
            let wide = ahead.widened(&fetch(&keys));
            assert!(is_fetch(&wide, &keys));
            let Some(Arg::Simple(count)) = wide.args_iter().nth(COUNT) else {
                panic!("no count");
            };
            String::from_utf8(count.to_vec()).unwrap()
        };
        assert_eq!(asked(&ahead), "5");
        // What another worker has fetched ahead is spoken for.
        let other = Ahead::new(slots.clone(), all);
        assert_eq!(other.keep(fetched(&["a", "b", "c"])), fetched(&["a"]));
        assert_eq!(asked(&ahead), "3");
        drop(other);
        assert_eq!(asked(&ahead), "5");
        let _all = slots.try_acquire_many(5).unwrap();
        assert_eq!(asked(&ahead), "1");
    }

    #[test]
    fn what_is_kept_answers_the_next_fetches() {
        let ahead = Ahead::new(Arc::new(Semaphore::new(9)), Arc::default());
        assert_eq!(ahead.keep(fetched(&["a", "b", "c"])), fetched(&["a"]));
        assert_eq!(ahead.next(), Some(fetched(&["b"])));
        assert_eq!(ahead.next(), Some(fetched(&["c"])));
        assert_eq!(ahead.next(), None);
        for other in [fetched(&[]), Value::Nil, Value::Array(vec![text("x")])] {
            assert_eq!(ahead.keep(other.clone()), other);
        }
    }
}
