//! The Microsoft provider over real HTTP on loopback.

mod directory;
mod fixture;
mod tls_server;

mod answer_limits;
mod arbitrary_answers;
mod credential_expiry;
mod directory_name_and_licences;
mod healthy_connection;
mod http2;
mod identity;
mod missing_permissions;
mod modules;
mod next_step_links;
mod permissions;
mod preflight;
mod proxy;
mod sign_in;
mod throttling;
mod tls_causes;
