//! The queues behind `ports::queue`: Redis in production, in-process for the embedded default.

mod consumer_health;
pub mod in_process;
pub mod redis;
