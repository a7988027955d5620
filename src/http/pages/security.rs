//! Headers of every answer, and protection against forged forms.

use super::error::PageError;
use crate::http::panics;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Nothing but our own files: no inline script or style, no frame, no other host.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// Browsers send `Origin: null` with forms under `no-referrer`; hence `same-origin`.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Answers when a handler panics, and adds the headers. Only assets may be stored.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response =
        panics::caught(next.run(request), || PageError::Defect.into_response()).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Returns whether a page of this host sent the request. Browsers say so in `Sec-Fetch-Site`, except over
/// plain http from another machine; there the host of `Origin` must equal that of `Host`. A request with
/// neither is not from a browser's form.
pub fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        return site.as_bytes() == b"same-origin";
    }
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"))
        .is_some_and(|from| from.eq_ignore_ascii_case(host))
}

/// Returns whether a link on another site was followed: the browser then does not send a `SameSite=Strict`
/// cookie.
pub fn followed_from_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &[u8]| headers.get(name).is_some_and(|v| v.as_bytes() == value);
    is("sec-fetch-site", b"cross-site") && is("sec-fetch-mode", b"navigate")
}

/// Returns whether the browser used https, as far as a proxy says so.
pub fn forwarded_https(headers: &HeaderMap) -> bool {
    headers
        .get("x-forwarded-proto")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(',').next())
        .is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_form_of_another_site_is_told_apart() {
        let host = ("host", "verifyd.example:9464");
        for (headers, ours) in [
            (with(&[host, ("sec-fetch-site", "same-origin")]), true),
            (
                with(&[
                    host,
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://behind.proxy"),
                ]),
                true,
            ),
            (with(&[host, ("sec-fetch-site", "cross-site")]), false),
            (with(&[host, ("sec-fetch-site", "same-site")]), false),
            (with(&[host, ("sec-fetch-site", "none")]), false),
            (
                with(&[host, ("origin", "http://verifyd.example:9464")]),
                true,
            ),
            (
                with(&[host, ("origin", "https://verifyd.example:9464")]),
                true,
            ),
            (with(&[host, ("origin", "http://verifyd.example")]), false),
            (with(&[host, ("origin", "http://evil.example")]), false),
            (with(&[host, ("origin", "null")]), false),
            (with(&[host]), false),
        ] {
            assert_eq!(same_origin(&headers), ours, "{headers:?}");
        }
    }

    #[test]
    fn https_is_what_the_nearest_proxy_says() {
        assert!(forwarded_https(&with(&[("x-forwarded-proto", "https")])));
        assert!(forwarded_https(&with(&[(
            "x-forwarded-proto",
            "HTTPS, http"
        )])));
        assert!(!forwarded_https(&with(&[(
            "x-forwarded-proto",
            "http, https"
        )])));
        assert!(!forwarded_https(&with(&[])));
    }
}
