//! The Microsoft provider over real HTTP on loopback.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "microsoft/directory.rs"]
mod directory;
#[path = "microsoft/fixture.rs"]
mod fixture;

#[path = "microsoft/any_answer.rs"]
mod any_answer;
#[path = "microsoft/expiry.rs"]
mod expiry;
#[path = "microsoft/healthy.rs"]
mod healthy;
#[path = "microsoft/identity.rs"]
mod identity;
#[path = "microsoft/limits.rs"]
mod limits;
#[path = "microsoft/links.rs"]
mod links;
#[path = "microsoft/permissions.rs"]
mod permissions;
#[path = "microsoft/sign_in.rs"]
mod sign_in;
#[path = "microsoft/tenant.rs"]
mod tenant;
#[path = "microsoft/throttling.rs"]
mod throttling;
#[path = "microsoft/why.rs"]
mod why;
