//! The pages: over plain HTTP, and in a real browser.

mod accessibility;
mod demo;
mod hostile_text;
mod in_a_browser;
mod limits;
mod live;
mod modules;
pub mod oidc;
mod over_http;
pub mod person;
mod screenshots;
mod surfaces;
mod webdriver;
