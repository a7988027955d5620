//! The style, the script and the icon: compiled in, and named by their content.

use super::error::PageError;
use super::input::Path;
use crate::domain::token::sha256_hex;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;

const STYLE: &str = include_str!("../../../templates/verifyd.css");
const SCRIPT: &str = include_str!("../../../templates/verifyd.js");
const ICON: &str = include_str!("../../../templates/icon.svg");

static STYLE_NAME: LazyLock<String> = LazyLock::new(|| named("verifyd", STYLE, "css"));
static SCRIPT_NAME: LazyLock<String> = LazyLock::new(|| named("verifyd", SCRIPT, "js"));

fn named(name: &str, content: &str, kind: &str) -> String {
    format!("/assets/{name}-{}.{kind}", &sha256_hex(content)[..12])
}

pub fn style() -> &'static str {
    &STYLE_NAME
}

pub fn script() -> &'static str {
    &SCRIPT_NAME
}

/// `GET /assets/{name}`: the content of a name never changes.
pub async fn asset(Path(name): Path<String>) -> Result<Response, PageError> {
    let path = format!("/assets/{name}");
    let (content, kind) = if path == *STYLE_NAME {
        (STYLE, "text/css; charset=utf-8")
    } else if path == *SCRIPT_NAME {
        (SCRIPT, "text/javascript; charset=utf-8")
    } else if name == "icon.svg" {
        (ICON, "image/svg+xml")
    } else {
        return Err(PageError::NotFound);
    };
    let caching = if name == "icon.svg" {
        "public, max-age=86400"
    } else {
        "public, max-age=31536000, immutable"
    };
    Ok(([(CONTENT_TYPE, kind), (CACHE_CONTROL, caching)], content).into_response())
}

/// `GET /favicon.ico`: browsers request it where a document names no icon, such as raw JSON.
pub async fn icon() -> Result<Response, PageError> {
    asset(Path("icon.svg".to_owned())).await
}
