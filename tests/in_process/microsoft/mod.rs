//! The Microsoft provider over real HTTP on loopback.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "microsoft/directory.rs"]
mod directory;
#[path = "microsoft/fixture.rs"]
mod fixture;
#[path = "microsoft/tls.rs"]
mod tls;

#[path = "support/connect_proxy.rs"]
mod connect_proxy;
#[path = "support/identity_of_tls.rs"]
mod identity_of_tls;

#[path = "microsoft/any_answer.rs"]
mod any_answer;
#[path = "microsoft/expiry.rs"]
mod expiry;
#[path = "microsoft/healthy.rs"]
mod healthy;
#[path = "microsoft/http2.rs"]
mod http2;
#[path = "microsoft/identity.rs"]
mod identity;
#[path = "microsoft/limits.rs"]
mod limits;
#[path = "microsoft/links.rs"]
mod links;
#[path = "microsoft/modules.rs"]
mod modules;
#[path = "microsoft/permissions.rs"]
mod permissions;
#[path = "microsoft/proxy.rs"]
mod proxy;
#[path = "microsoft/sign_in.rs"]
mod sign_in;
#[path = "microsoft/tenant.rs"]
mod tenant;
#[path = "microsoft/throttling.rs"]
mod throttling;
#[path = "microsoft/why.rs"]
mod why;
