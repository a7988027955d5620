//! What the fuzz targets do; `tests/corpus.rs` of verifyd replays their corpus through the same code.

pub mod provider;
pub mod targets;
