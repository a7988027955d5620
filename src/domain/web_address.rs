//! Addresses of web servers, taken only as they are called.
//!
//! The parser mends what it reads, as browsers do: `https:///x` leads to the host `x`, a backslash counts as a slash,
//! tabs are dropped, `/../` is followed, `0x7f.1` is an address. What is mended leads elsewhere than its text says.

use url::{Position, Url};

/// How an address is written so that nothing of it is mended.
pub const FORM: &str = "HOST in ASCII (xn--…), IP addresses in their short form, no backslash and no /../, \
     other characters percent-encoded";

/// Parses an address that is written as it is called: `scheme://HOST`, with path and query or without. Letters of scheme
/// and host may be of any case. `None` for anything else, such as a host that is not in ASCII, and characters in path or
/// query that have to be percent-encoded. See [`FORM`].
pub fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(Url::has_host)?;
    let origin = &url[..Position::BeforePath];
    let path = &url[Position::BeforePath..];
    let given_origin = text.get(..origin.len())?;
    let given_path = text.get(origin.len()..)?;
    let own_port = match url.scheme() {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let given_path = given_path.strip_prefix(own_port).unwrap_or(given_path);
    let is_same_path = given_path == path || path.strip_prefix('/') == Some(given_path);
    (given_origin.eq_ignore_ascii_case(origin) && is_same_path).then_some(url)
}

/// Whether the text is read as an address, but as another one than it is written.
pub fn is_mended(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.has_host()) && parse(text).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_called_otherwise_than_it_is_written_is_none() {
        for text in [
            "https://a.example",
            "https://a.example/",
            "HTTPS://A.example/Hook/",
            "https://a.example?x=1",
            "https://a.example:443",
            "http://a.example:80/hook",
            "https://a.example:8443/hook?x=%20y&z={1}#part",
            "https://[2603:1006:2000::1]/",
            "http://127.0.0.1:8480",
            "https://xn--bcher-kva.example/",
            "https://u:p@a.example/",
            "http://otel-collector:4317",
            "http://[::1]:4318/v1",
        ] {
            assert!(parse(text).is_some() && !is_mended(text), "{text}");
        }
        for text in [
            "a.example",
            "https:",
            "https://",
            "mailto:a@a.example",
            "https:///a.example",
            "https:a.example",
            "https:/a.example/",
            "https:\\\\a.example\\hook",
            "https://a.example\\hook",
            "https://a.example/a\\b",
            " https://a.example/",
            "https://a.example/ ",
            "https://a.example/a b",
            "https://a.ex\tample/",
            "https://a.example/a\nb",
            "https://a.example/a/../b",
            "https://a.example/%2e%2e/b",
            "https://a.example:/",
            "https://a.example:4433:443/",
            "https://b\u{fc}cher.example/",
            "https://a.example/b\u{fc}cher",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[2603:1006:2000:0::1]/",
            "https://@a.example/",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
