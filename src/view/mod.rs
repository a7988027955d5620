//! What people are shown of runs and reports: one view model for every surface, so that terminal,
//! API and page can never disagree.

pub mod acknowledgement;
pub mod detail;
pub mod diff;
pub mod module;
pub mod onboarding;
pub mod overview;
pub mod report;
pub mod timeline;

pub use acknowledgement::AcknowledgementView;
pub use detail::RunDetail;
pub use diff::DiffView;
pub use module::ModuleView;
pub use onboarding::OnboardingView;
pub use report::{CheckView, ReportView, RunView};
pub use timeline::Timeline;

#[cfg(test)]
mod view_tests;
