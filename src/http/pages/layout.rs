//! The layout that all pages share.

use super::assets;
use super::session::Visitor;
use crate::domain::access::Scope;
use crate::telemetry::build_info::{BUILD, BuildInfo};
use crate::view::words::span_of_seconds;

/// The frame around a page.
#[derive(Clone, Debug)]
pub struct Layout {
    pub title: String,
    /// Which entry of the navigation is this page's.
    pub section: &'static str,
    pub visitor: String,
    pub csrf: String,
    pub may_run: bool,
    pub sees_workers: bool,
    pub sees_audit: bool,
    /// What the token is bound to, in words.
    pub reach: Option<String>,
    /// Address of the live stream for the script.
    pub live: Option<String>,
    /// How old the page may be, where it was read from a replica that lags.
    pub age: Option<String>,
    pub style: &'static str,
    pub script: &'static str,
    pub build: BuildInfo,
}

/// An entry of a list to choose from.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub value: &'static str,
    pub words: &'static str,
    pub chosen: bool,
}

impl Layout {
    pub fn of(visitor: &Visitor, section: &'static str, title: impl Into<String>) -> Self {
        let bound = [
            visitor
                .binding
                .workspace_id
                .map(|id| format!("workspace {id}")),
            visitor.binding.tenant_id.map(|id| format!("tenant {id}")),
        ];
        let bound: Vec<String> = bound.into_iter().flatten().collect();
        Self {
            title: title.into(),
            section,
            visitor: visitor.name.clone(),
            csrf: visitor.csrf.clone(),
            may_run: visitor.may(Scope::Run),
            sees_workers: visitor.sees_workers(),
            sees_audit: visitor.may(Scope::Audit),
            reach: (!bound.is_empty()).then(|| bound.join(", ")),
            live: None,
            age: visitor
                .mentioned_lag()
                .map(|lag| span_of_seconds(lag.as_secs())),
            style: assets::style(),
            script: assets::script(),
            build: BUILD,
        }
    }

    pub fn live(mut self, address: impl Into<String>) -> Self {
        self.live = Some(address.into());
        self
    }
}
