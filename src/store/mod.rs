//! The databases behind `ports::store`.
