//! Finds the next page of a list.

use crate::domain::Reason;
use http::Uri;
use url::Url;

/// Returns the address of the requested page.
pub(super) fn address(uri: &Uri) -> Result<Url, Reason> {
    Url::parse(&uri.to_string()).map_err(|_| Reason::RequestMalformed)
}

/// The address that a link on the page at `here` leads to: a relative one is resolved, and whatever comes out
/// has to be on Graph itself.
pub(super) fn next(link: &str, here: &Url, graph: &Url) -> Result<Url, Reason> {
    let mut url = here.join(link).map_err(|_| Reason::ResponseInvalid)?;
    // A fragment is never sent, so it is no part of the request.
    url.set_fragment(None);
    match is_same_origin(&url, graph) {
        true => Ok(url),
        false => Err(Reason::RedirectRefused),
    }
}

/// Same scheme, host and port, and no user name or password.
fn is_same_origin(url: &Url, base: &Url) -> bool {
    url.origin() == base.origin() && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str =
        "https://graph.microsoft.com/v1.0/servicePrincipals/1/appRoleAssignments?a=1";

    fn found(link: &str) -> Result<String, Reason> {
        let graph: Url = "https://graph.microsoft.com".parse().unwrap();
        next(link, &HERE.parse().unwrap(), &graph).map(String::from)
    }

    #[test]
    fn the_next_page_is_on_graph_itself() {
        for same in [
            "https://graph.microsoft.com/v1.0/x?$skiptoken=a",
            "https://GRAPH.microsoft.com:443/x",
            "//graph.microsoft.com/x",
        ] {
            assert!(found(same).is_ok(), "{same}");
        }
        for other in [
            "http://graph.microsoft.com/x",
            "https://graph.microsoft.com:444/x",
            "https://graph.microsoft.com.evil.example/x",
            "https://evil.example/graph.microsoft.com",
            "https://graph.microsoft.com@evil.example/",
            "https://user@graph.microsoft.com/",
            "//evil.example/v1.0/x",
            "\\\\evil.example/x",
            "file:///etc/passwd",
            "data:application/json,{}",
        ] {
            assert_eq!(found(other), Err(Reason::RedirectRefused), "{other}");
        }
        assert_eq!(found("https://"), Err(Reason::ResponseInvalid));
    }
}
