//! The queues behind `ports::queue`.
