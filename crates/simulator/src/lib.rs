//! An honest imitation of the Microsoft Entra token endpoint and of the Graph calls that a
//! connection check makes, on loopback only: for `verifyd simulate`, `verifyd demo` and the tests.
//!
//! It checks what it is given (secrets, signatures, audiences, times, permissions) and fails by
//! scenario: the tenant id that is asked for decides what its directory is like. See
//! `crates/simulator/README.md`.
//!
//! A request's way: [`server`] routes it, [`login`] or [`graph`] answers it, [`faults`] may put
//! something else in place of the answer, as the tenant's [`scenario`] says.

mod app_roles;
mod calls;
mod certificates;
mod control;
mod directory;
pub mod docs;
mod faults;
mod federation;
mod graph;
mod login;
mod options;
mod scenario;
mod server;
mod state;
mod tenants;
mod tokens;

pub use app_roles::OFFERED as GRAPH_ROLES;
pub use calls::{Calls, Endpoint};
pub use directory::{LINE_OF_BUSINESS_APP_ID, graph_service_principal_id, service_principal_id};
pub use federation::{FEDERATED_AUDIENCE, FEDERATED_SUBJECT};
pub use options::{RateLimit, SIMULATED_SECRET, SimulatorError, SimulatorOptions, ThrottleLimits};
pub use scenario::{Expectation, Scenario};
pub use server::{RunningSimulator, Simulator};
