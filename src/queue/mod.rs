//! The queues behind `ports::queue`: Redis in production, in-process for the embedded default.

pub mod in_process;
mod pulse;
pub mod redis;
