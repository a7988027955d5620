//! How routes are added: never without saying who may use them.

use super::Api;
use super::auth;
use super::problem::Kind;
use crate::domain::access::Scope;
use axum::extract::Request;
use axum::middleware::{self, Next};
use std::sync::Arc;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{OpenApi, RefOr, Response};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Public,
    /// Tokens with this scope.
    Scope(Scope),
}

/// The routes of the API. [`Routes::add`] is the only way in, so that none is without its guard, and
/// none without its entry in the OpenAPI document.
pub struct Routes(OpenApiRouter<Arc<Api>>);

impl Routes {
    pub fn new() -> Self {
        Self(OpenApiRouter::new())
    }

    /// Adds handlers that this access allows.
    pub fn add(self, access: Access, methods: UtoipaMethodRouter<Arc<Api>>) -> Self {
        let (schemas, mut paths, router) = methods;
        for item in paths.paths.values_mut() {
            for operation in operations(item) {
                describe(operation, access);
            }
            for operation in [&mut item.put, &mut item.post, &mut item.patch] {
                operation.iter_mut().for_each(takes_a_body);
            }
        }
        let router =
            router.route_layer(middleware::from_fn(move |request: Request, next: Next| {
                auth::admit(access, request, next)
            }));
        Self(self.0.routes((schemas, paths, router)))
    }

    /// The router, and what it says of itself.
    pub fn split(self) -> (axum::Router<Arc<Api>>, OpenApi) {
        self.0.split_for_parts()
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .filter_map(Option::as_mut)
}

/// What every route of this access has in common.
fn describe(operation: &mut Operation, access: Access) {
    let mut add = |kind: Kind, when: &str| {
        let status = kind.status().as_u16().to_string();
        let response = RefOr::T(problem(when));
        operation
            .responses
            .responses
            .entry(status)
            .or_insert(response);
    };
    add(
        Kind::RateLimited,
        "Too many requests; `Retry-After` says when to try again",
    );
    add(Kind::Defect, "verifyd failed; the log says why");
    add(
        Kind::Unavailable,
        "The database is unavailable or busy; `Retry-After` says when to try again",
    );
    add(
        Kind::InvalidQuery,
        "The query, a header or the body is not valid",
    );
    if let Access::Scope(scope) = access {
        add(Kind::Unauthorized, "No token, or one that is not valid");
        add(Kind::Forbidden, "The token lacks the scope");
        let none: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new("token", none)]);
        let extensions = ExtensionsBuilder::new().add("x-scope", scope.as_str());
        operation.extensions = Some(extensions.build());
    } else {
        operation.security = Some(vec![]);
    }
}

/// What every route answers that takes a body.
fn takes_a_body(operation: &mut Operation) {
    for (kind, when) in [
        (Kind::Timeout, "The body did not arrive in time"),
        (Kind::TooLarge, "The body is too large"),
        (Kind::MediaType, "The body is not JSON"),
        (
            Kind::InvalidBody,
            "The body is not valid, or the key was used for another request",
        ),
    ] {
        let status = kind.status().as_u16().to_string();
        let all = &mut operation.responses.responses;
        all.entry(status).or_insert(RefOr::T(problem(when)));
    }
}

fn problem(when: &str) -> Response {
    use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
    ResponseBuilder::new()
        .description(when)
        .content(
            "application/problem+json",
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build(),
        )
        .build()
}
