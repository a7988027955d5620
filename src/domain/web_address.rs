//! Addresses of web servers, taken only as they are called.
//!
//! The parser mends what it reads, as browsers do: `https:///x` leads to the host `x`, a backslash counts as a slash,
//! tabs are dropped, `/../` is followed, `0x7f.1` is an address. What is mended leads elsewhere than its text says.

use url::{Position, Url};

/// How an address is written so that nothing of it is mended.
pub const FORM: &str = "HOST in ASCII (xn--…), IP addresses in their short form, no backslash and no /../, \
     other characters percent-encoded";

/// Why a text is not taken as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebAddressError {
    #[error("must be an address with a host")]
    Unreadable,
    #[error("must have a port from 1 to 65535")]
    Port,
    #[error("must have a host without two dots in a row or one at its start")]
    EmptyLabel,
    #[error(
        "must have a host of at most 253 characters, each part between two dots of at most 63, with no hyphen at its \
         start or end"
    )]
    Label,
    /// It is read as another one.
    #[error("must be written as it is called: {form}", form = FORM)]
    Mended,
}

/// Parses an address that can be called and is written so: `scheme://HOST`, with path and query or without. Letters of
/// scheme and host may be of any case. An error for anything else, such as a host that is not in ASCII, and characters in
/// path or query that have to be percent-encoded. See [`FORM`].
pub fn parse(text: &str) -> Result<Url, WebAddressError> {
    let url = Url::parse(text).ok().filter(Url::has_host);
    let url = url.ok_or(WebAddressError::Unreadable)?;
    if url.port() == Some(0) {
        return Err(WebAddressError::Port);
    }
    if url.domain().is_some_and(has_empty_label) {
        return Err(WebAddressError::EmptyLabel);
    }
    if url.domain().is_some_and(has_wrong_label) {
        return Err(WebAddressError::Label);
    }
    let is_as_written = is_as_written(&url, text).unwrap_or_default();
    is_as_written.then_some(url).ok_or(WebAddressError::Mended)
}

/// Whether a part between two dots is empty, as none is that DNS resolves. One dot may end a name.
fn has_empty_label(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.split('.').any(str::is_empty)
}

/// Whether DNS resolves no such name, as it or a part of it is too long, or no host may have it: RFC 1123, 2.1.
fn has_wrong_label(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_wrong = |label: &str| label.len() > 63 || label.starts_with('-') || label.ends_with('-');
    name.len() > 253 || name.split('.').any(is_wrong)
}

/// Whether the text is the address that it is read as.
fn is_as_written(url: &Url, text: &str) -> Option<bool> {
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
    Some(given_origin.eq_ignore_ascii_case(origin) && is_same_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_called_otherwise_than_it_is_written_is_refused() {
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
            "https://a.example./hook",
            "http://otel_collector-1:4317",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        let named = |name: &str| parse(&format!("https://{name}.example/"));
        let (longest, too_long) = ("x".repeat(63), "x".repeat(64));
        let longest_name = format!("{longest}.{longest}.{longest}.{}", "x".repeat(53));
        for name in [&longest, &longest_name] {
            assert!(named(name).is_ok(), "{name}");
        }
        let too_long_name = format!("{longest_name}x");
        for name in ["-a", "a-", "a.-b", &too_long, &too_long_name] {
            assert_eq!(named(name), Err(WebAddressError::Label), "{name}");
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
            assert!(parse(text).is_err(), "{text}");
        }
        for text in [
            "https://a..example/",
            "https://.a.example/",
            "https://a.example../",
        ] {
            assert_eq!(parse(text), Err(WebAddressError::EmptyLabel), "{text}");
        }
        for text in ["https://a.example:0", "http://127.0.0.1:00/hook?x=1"] {
            assert_eq!(parse(text), Err(WebAddressError::Port), "{text}");
        }
    }
}
