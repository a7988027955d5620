//! From a claim to a completed run.
