//! The names of the queue's keys, as apalis-redis 1.0 builds them.

/// Sorted set of all queues of the server, by the key of their workers.
pub(super) const QUEUES: &str = "core:apalis:queues:list";

/// All keys of one queue.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Hash: task id → payload.
    pub data: String,
    /// List of the ids that wait.
    pub active: String,
    /// List that older readers block on; kept because the wire format names it.
    pub signal: String,
    /// Prefix of one hash per delivery: attempts, max_attempts, status.
    pub meta: String,
    /// Sorted set: ids that others have scheduled, by the second when they are due.
    pub scheduled: String,
    /// Set of acknowledged ids.
    pub done: String,
    /// Set of the ids of dead letters.
    pub dead: String,
    /// Sorted set: worker → last heartbeat.
    pub workers: String,
    /// Pub/sub channel: "something waits".
    pub available: String,
    /// Pub/sub channel: "a run is completed".
    pub completed: String,
    queue: String,
}

impl Keys {
    pub fn new(queue: &str) -> Self {
        Self {
            data: format!("{queue}:data"),
            active: format!("{queue}:active"),
            signal: format!("{queue}:signal"),
            meta: format!("{queue}:meta"),
            scheduled: format!("{queue}:scheduled"),
            done: format!("{queue}:done"),
            dead: format!("{queue}:dead"),
            workers: format!("{queue}:workers"),
            available: format!("tasks:{queue}:active:available"),
            completed: format!("{queue}:completed"),
            queue: queue.to_owned(),
        }
    }

    /// Names the keys of a group's queue. Completion events of all groups have the channel of the queue `base`.
    pub fn of_group(queue: &str, base: &str) -> Self {
        Self {
            completed: Self::new(base).completed,
            ..Self::new(queue)
        }
    }

    /// Returns the keys that exist once, that of the workers first, and the types that they have. `meta` is only a
    /// prefix, and what belongs to one delivery or worker goes with it.
    pub fn types(&self) -> [(&str, &'static str); 8] {
        let Self {
            data,
            active,
            signal,
            meta: _,
            scheduled,
            done,
            dead,
            workers,
            available: _,
            completed: _,
            queue: _,
        } = self;
        [
            (workers, "zset"),
            (data, "hash"),
            (active, "list"),
            (signal, "list"),
            (scheduled, "zset"),
            (done, "set"),
            (dead, "set"),
            (QUEUES, "zset"),
        ]
    }

    /// Returns a pattern that matches all keys of the queue, whose name contains no special character.
    pub fn pattern(&self) -> String {
        format!("{}:*", self.queue)
    }

    /// Returns the key of the set of ids that a worker holds.
    pub fn inflight(&self, worker: &str) -> String {
        format!("{}:inflight:{worker}", self.queue)
    }

    /// Names the hash that registration writes for a worker and that nothing in apalis-redis removes.
    pub fn worker_metadata(&self, worker: &str) -> String {
        format!("{}{worker}", self.worker_metadata_prefix())
    }

    pub fn worker_metadata_prefix(&self) -> String {
        format!("{}:workers:metadata:", self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_all_groups_have_one_channel() {
        let keys = Keys::of_group("q.eu", "q");
        assert_eq!(keys.completed, "q:completed");
        assert_eq!(keys.active, "q.eu:active");
        assert_eq!(keys.available, "tasks:q.eu:active:available");
    }
}
