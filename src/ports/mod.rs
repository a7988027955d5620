//! What the engine needs from the world, as traits. No type of a database, queue or HTTP library
//! appears here.

pub mod access;
pub mod acknowledgements;
pub mod clock;
pub mod completion_events;
pub mod invalid_runs;
pub mod onboarding;
pub mod overview;
pub mod plan;
pub mod probe;
pub mod provider;
pub mod queue;
pub mod store;
pub mod store_error;
pub mod sweep;
pub mod turns;
pub mod vault;
pub mod wake;
pub mod webhooks;
