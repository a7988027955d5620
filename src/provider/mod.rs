//! The providers behind `ports::provider`: one folder each.

pub mod microsoft;
