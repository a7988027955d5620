//! What people are shown of runs and reports: one view model for every surface, so that terminal,
//! API and page can never disagree. The API's schema is derived from these types.

pub mod acknowledgement;
pub mod audit;
pub mod connection;
pub mod detail;
pub mod diff;
pub mod module;
pub mod onboarding;
pub mod overview;
pub mod report;
pub mod run_item;
pub mod timeline;
pub mod waiting;
pub mod words;

pub use acknowledgement::AcknowledgementView;
pub use audit::AuditEntryView;
pub use connection::ConnectionView;
pub use detail::RunDetail;
pub use diff::DiffView;
pub use module::ModuleView;
pub use onboarding::OnboardingView;
pub use report::{CheckView, ReportView, RunView};
pub use run_item::RunItem;
pub use timeline::Timeline;

#[cfg(test)]
mod view_tests;
