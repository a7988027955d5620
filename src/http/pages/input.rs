//! What pages read from addresses and forms. What cannot be read is refused with a page, in place of the framework's
//! own text.

use super::error::PageError;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// Parts of the path. What is no text leads nowhere.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The parameters of the address.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// The fields of a form.
#[derive(Debug)]
pub struct Form<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        match <extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(extract::Path(read)) => Ok(Self(read)),
            Err(_) => Err(PageError::NotFound),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        match <extract::Query<T> as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(extract::Query(read)) => Ok(Self(read)),
            Err(_) => Err(PageError::Refused(
                "The address has a parameter more than once.".to_owned(),
            )),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        match <axum::Form<T> as FromRequest<S>>::from_request(request, state).await {
            Ok(axum::Form(read)) => Ok(Self(read)),
            Err(_) => Err(PageError::Refused(
                "The form lacks a field, has one more than once, or is none. Nothing was changed. \
                 Load the page again and repeat what you did."
                    .to_owned(),
            )),
        }
    }
}
