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

    /// Those that are not empty.
    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let given = pairs.iter().filter(|(_, value)| !value.is_empty());
        let header = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        given.map(header).collect()
    }

    #[test]
    fn a_form_of_another_site_is_told_apart() {
        for (site, origin, ours) in [
            ("same-origin", "", true),
            ("same-origin", "https://behind.proxy", true),
            ("cross-site", "", false),
            ("same-site", "", false),
            ("none", "", false),
            ("", "http://verifyd.example:9464", true),
            ("", "https://verifyd.example:9464", true),
            ("", "http://verifyd.example", false),
            ("", "http://evil.example", false),
            ("", "null", false),
            ("", "", false),
        ] {
            let host = ("host", "verifyd.example:9464");
            let headers = with(&[host, ("sec-fetch-site", site), ("origin", origin)]);
            assert_eq!(same_origin(&headers), ours, "{headers:?}");
        }
    }

    #[test]
    fn https_is_what_the_nearest_proxy_says() {
        for (proto, is_https) in [
            ("https", true),
            ("HTTPS, http", true),
            ("http, https", false),
            ("", false),
        ] {
            let headers = with(&[("x-forwarded-proto", proto)]);
            assert_eq!(forwarded_https(&headers), is_https, "{proto}");
        }
    }
}
