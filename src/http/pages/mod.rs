//! The pages for people, rendered on the server from the view models. They work without a script.

mod admission;
mod assets;
mod audit;
mod chart;
mod connections;
mod error;
mod format;
mod input;
mod layout;
mod live;
mod login;
mod modules;
mod oidc;
mod overview;
mod refused_logins;
mod run;
mod runs;
mod security;
mod session;
mod settings;
mod streams;
mod workers;

pub use settings::{PagesSettings, SecureCookie};

use crate::domain::groups::WorkspaceGroups;
use crate::engine::settings::LinkSettings;
use crate::http::HttpSettings;
use crate::http::body::MAX_BODY_BYTES;
use crate::http::oidc::SignIn;
use crate::http::reads::Reads;
use crate::http::request_limits::RequestLimits;
use crate::ports::clock::Clock;
use crate::ports::provider::Providers;
use crate::ports::queue::Queue;
use crate::ports::store::Store;
use admission::Limits;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use tokio_util::sync::CancellationToken;

/// Rows of a list on one page.
const ROWS: u32 = 50;

/// The parts that the pages use.
pub struct Pages {
    pub store: Arc<dyn Store>,
    pub reads: Arc<Reads>,
    /// Where the hint of a new run goes, if workers listen there.
    pub queue: Option<Arc<dyn Queue>>,
    pub providers: Providers,
    pub clock: Arc<dyn Clock>,
    pub settings: PagesSettings,
    /// Links of reports that lead to the surrounding application, where that is on this host.
    pub links: LinkSettings,
    /// Time without a heartbeat after which a worker is dead.
    pub dead_after: Duration,
    /// Whose workers the list of workers expects.
    pub groups: WorkspaceGroups,
    /// `None`: people sign in with API tokens only.
    pub sign_in: Option<SignIn>,
    /// Set when the process begins to stop: live pages end.
    pub stopping: CancellationToken,
    request_limits: Arc<RequestLimits>,
    limits: Limits,
    streams: Arc<Streams>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages")
            .field("store", &self.store)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Pages {
    #[expect(
        clippy::too_many_arguments,
        reason = "the composition root calls it, once"
    )]
    pub fn new(
        store: Arc<dyn Store>,
        reads: Arc<Reads>,
        queue: Option<Arc<dyn Queue>>,
        providers: Providers,
        clock: Arc<dyn Clock>,
        request_limits: Arc<RequestLimits>,
        http: &HttpSettings,
        settings: PagesSettings,
        sign_in: Option<SignIn>,
        links: LinkSettings,
        dead_after: Duration,
        groups: WorkspaceGroups,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            streams: Arc::new(Streams::new(http)),
            limits: Limits::new(http),
            request_limits,
            store,
            reads,
            queue,
            providers,
            clock,
            settings,
            sign_in,
            links,
            dead_after,
            groups,
            stopping,
        }
    }
}

/// All routes of the pages; everything else answers 404.
pub fn router(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/connections", get(connections::list))
        .route("/connections/{id}", get(connections::one))
        .route("/connections/{id}/check", post(connections::check))
        .route("/runs", get(runs::page))
        .route("/runs/{id}", get(run::page))
        .route("/runs/{id}/run.json", get(run::raw))
        .route("/runs/{id}/acknowledgements", post(run::acknowledge))
        .route(
            "/runs/{id}/acknowledgements/{acknowledgement}/withdraw",
            post(run::withdraw),
        )
        .route("/modules", get(modules::list))
        .route("/modules/{key}/plan", get(modules::plan))
        .route("/workers", get(workers::page))
        .route("/audit", get(audit::page))
        .route("/live", get(live::lists))
        .route("/live/runs/{id}", get(live::run))
        .route("/login", get(login::form).post(login::log_in))
        .route("/login/oidc", get(oidc::begin))
        .route("/login/callback", get(oidc::finish))
        .route("/logout", post(login::log_out))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&pages),
            admission::admit,
        ))
        .route("/assets/{name}", get(assets::asset))
        .route("/favicon.ico", get(assets::icon))
        .fallback(error::not_here)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(security::headers))
        .with_state(pages)
}
