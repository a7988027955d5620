//! What the engine needs from the world, as traits. No type of a database, queue or HTTP library
//! appears here.

pub mod clock;
pub mod provider;
pub mod queue;
pub mod store;
pub mod vault;
