//! Explains why the address of a server cannot be parsed: what to percent-encode in user and password, and how.
//!
//! No message quotes what may be a part of the password.

use super::text_decoding::{Named, is_left_by_copying};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use url::{Host, ParseError, Url, form_urlencoded};

/// Characters that end or divide the parts of a URL, in the order in which messages name them.
const RESERVED: [char; 9] = ['#', '/', '?', '@', '[', ']', ':', ' ', '%'];

/// What is wrong with several hosts, as far as they keep an address from being parsed.
pub const SEVERAL_HOSTS: &str = "it names several hosts, allowed is one";

/// Returns what is wrong with `SCHEME://USER:PASSWORD@HOST:PORT/…`; `None` if it can be parsed.
pub fn problem(text: &str) -> Option<String> {
    if let Some(control) = control_in("it", text) {
        return Some(control);
    }
    let Some((_, rest)) = text.split_once("://") else {
        return Some("the scheme must be followed by two slashes".to_owned());
    };
    if let Some(reserved) = reserved_in_credentials(rest) {
        return Some(reserved);
    }
    if let Some(stray) = stray_sign(rest) {
        return Some(stray);
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(unreadable(error, rest)),
    };
    if url.port() == Some(0) {
        return Some("the port is not a number from 1 to 65535".to_owned());
    }
    if url.fragment().is_some() {
        return Some("it has a #; percent-encode # as %23 in the password".to_owned());
    }
    let parts = [
        ("user", url.username()),
        ("password", url.password().unwrap_or_default()),
        ("path", url.path()),
        ("host", url.host_str().unwrap_or_default()),
    ];
    for (part, text) in parts {
        let Ok(decoded) = percent_decode_str(text).decode_utf8() else {
            return Some(format!(
                "the {part} has a % that begins no character of UTF-8; percent-encode % as %25 in the {part}"
            ));
        };
        if let Some(control) = control_in(&format!("the {part}"), &decoded) {
            return Some(control);
        }
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Some("the host is missing".to_owned());
    }
    None
}

/// Says which control character a part of an address holds, also percent-encoded: no server's host, user, password or
/// database needs one. `shown`: what names the part.
pub fn control_in(shown: &str, text: &str) -> Option<String> {
    let control = text.chars().find(|c| c.is_control())?;
    Some(format!(
        "{shown} holds {}; no control character is allowed, not even percent-encoded",
        Named(control)
    ))
}

/// Finds an `@` after a character that ends the authority of a URL: the part before it was meant as a user and
/// a password.
fn reserved_in_credentials(rest: &str) -> Option<String> {
    let end = rest.find(['/', '?', '#'])?;
    let (authority, behind) = rest.split_at(end);
    let meant = match behind.find(['?', '#']) {
        Some(query) if !begins_password(authority) && is_parameter(&behind[query + 1..]) => {
            &behind[..query]
        }
        _ => behind,
    };
    // An `@` in a parameter is one of the parameter.
    let before_parameters = meant
        .match_indices('?')
        .map(|(at, _)| at)
        .find(|at| meant[..*at].contains('@') && is_parameter(&meant[at + 1..]))
        .unwrap_or(meant.len());
    let at = meant[..before_parameters].rfind('@')?;
    let credentials = &rest[..end + at];
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let parts = [("user", user), ("password", password)];
    let advice: Vec<String> = parts
        .iter()
        .filter_map(|(part, text)| Some(format!("{} in the {part}", encodings(text)?)))
        .collect();
    Some(format!("percent-encode {}", advice.join("; ")))
}

/// Whether what follows the colon may be a password that no `@` ends: it is no port.
fn begins_password(authority: &str) -> bool {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    !authority.contains(['@', '['])
        && authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !is_port(port))
}

/// Finds what copying has left behind user and password: at the end of the address any such sign, in host and path
/// one that nobody types. Looks at nothing where a part of it may be a password.
fn stray_sign(rest: &str) -> Option<String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (path, parameters) = behind.split_once('?').unwrap_or((behind, ""));
    if begins_password(authority) || parameters.split('&').any(is_password) {
        return None;
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    let stray = |text: &str| {
        text.chars()
            .find(|c| !c.is_ascii() && is_left_by_copying(*c))
    };
    // No host has a name with such a sign, encoded or not.
    if let Some(last) = rest.chars().next_back().filter(|c| is_left_by_copying(*c)) {
        let remedy = match behind {
            "" => "remove it".to_owned(),
            _ => remove_or_encode(last),
        };
        return Some(format!("it ends with {}; {remedy}", Named(last)));
    }
    if let Some(stray) = stray(host) {
        return Some(format!("the host holds {}; remove it", Named(stray)));
    }
    let stray = stray(path)?;
    let remedy = remove_or_encode(stray);
    Some(format!("the path holds {}; {remedy}", Named(stray)))
}

/// Whether the parameter is a password, or the beginning of one that holds an `&`.
fn is_password(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    let name: Vec<u8> = percent_decode_str(name).collect();
    name.ends_with(b"password")
}

/// What to do about a sign in a part of an address that may be percent-encoded.
pub fn remove_or_encode(sign: char) -> String {
    format!("remove it, or percent-encode it as {}", encoded(sign))
}

/// Names the reserved characters of a text with their encodings: `# as %23 and / as %2F`.
fn encodings(text: &str) -> Option<String> {
    let found: Vec<String> = RESERVED
        .into_iter()
        .filter(|c| match c {
            '%' => has_bare_percent(text),
            c => text.contains(*c),
        })
        .map(|c| match c {
            ' ' => format!("a space as {}", encoded(c)),
            c => format!("{c} as {}", encoded(c)),
        })
        .collect();
    let (last, others) = found.split_last()?;
    Some(match others {
        [] => last.clone(),
        others => format!("{} and {last}", others.join(", ")),
    })
}

/// Says which parameter of an address that can be parsed is not known. Its name is quoted only where it cannot be
/// a part of a password: no `@` follows, which may be meant to end one, and no password comes before it.
pub fn unknown_parameter(
    url: &Url,
    is_known: impl Fn(&str) -> bool,
    allowed: &str,
) -> Option<String> {
    let pairs = url.query()?.split('&').filter(|pair| !pair.is_empty());
    let names: Vec<_> = url.query_pairs().map(|(name, _)| name).collect();
    let unknown = names.iter().position(|name| !is_known(name))?;
    let name = &names[unknown];
    let mut before = names[..unknown].iter();
    Some(if before.any(|name| name.ends_with("password")) {
        format!(
            "there is no known parameter after the parameter password; percent-encode & as %26 in the password, \
             allowed as parameters: {allowed}"
        )
    } else if pairs.skip(unknown).any(|pair| pair.contains('@')) || !is_name(name) {
        format!(
            "there is no known parameter after the ?; percent-encode ? as %3F in the password, allowed as \
             parameters: {allowed}"
        )
    } else {
        format!("the parameter {name:?} is not known, allowed: {allowed}")
    })
}

/// Says which known parameter stands there more than once, also by another of the names that mean the same: one value
/// would count without a word, and what is appended to an address could lower what it asks of TLS.
pub fn repeated_parameter(
    parameters: form_urlencoded::Parse<'_>,
    same: &[&[&str]],
) -> Option<String> {
    let mut found: Vec<Cow<'_, str>> = Vec::new();
    for (name, _) in parameters {
        let names = same.iter().find(|names| names.contains(&&*name));
        let mut earlier = found.iter();
        let earlier = earlier.find(|earlier| {
            **earlier == name || names.is_some_and(|names| names.contains(&&***earlier))
        });
        if let Some(earlier) = earlier {
            return Some(match *earlier == name {
                true => format!("the parameter {name} stands there twice; leave one out"),
                false => format!(
                    "the parameters {earlier} and {name} stand beside each other; leave one out"
                ),
            });
        }
        found.push(name);
    }
    None
}

/// Whether it can only be meant as a parameter.
fn is_name(text: &str) -> bool {
    (2..=40).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-')
}

fn is_parameter(text: &str) -> bool {
    let name = text.split('=').next().unwrap_or_default();
    name.len() < text.len()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b"_-[].".contains(&b))
}

/// Whether a `%` begins no percent-encoded character.
pub fn has_bare_percent(text: &str) -> bool {
    text.match_indices('%').any(|(at, _)| {
        let digits = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit)
    })
}

fn encoded(c: char) -> String {
    let mut bytes = [0; 4];
    c.encode_utf8(&mut bytes)
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect()
}

/// Whether the host is an IPv6 address in brackets with a zone, such as `[fe80::1%25eth0]`.
fn has_zone(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.split_once('%'));
    address.is_some_and(|(address, _)| Host::parse(&format!("[{address}]")).is_ok())
}

fn unreadable(error: ParseError, rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.contains(',') {
        return SEVERAL_HOSTS.to_owned();
    }
    if host.matches(':').count() > 1 && !host.contains('[') {
        return "an IPv6 address must be in brackets, such as [::1]".to_owned();
    }
    match error {
        ParseError::InvalidPort if authority.contains('@') => {
            "the port is not a number from 1 to 65535".to_owned()
        }
        ParseError::InvalidPort => {
            "the port is not a number from 1 to 65535; a user and a password \
                                    are followed by an @"
                .to_owned()
        }
        ParseError::InvalidIpv6Address if has_zone(host) => {
            "the IPv6 address has a zone (what follows its %), which is not supported; use an address without one, or a \
             name"
                .to_owned()
        }
        ParseError::InvalidIpv6Address => {
            "the text in brackets is no IPv6 address; allowed is for example [::1]".to_owned()
        }
        ParseError::EmptyHost => "the host is missing".to_owned(),
        ParseError::InvalidDomainCharacter
        | ParseError::IdnaError
        | ParseError::InvalidIpv4Address => {
            "the host has a character that no host's name has".to_owned()
        }
        _ => "it is not a URL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    #[test]
    fn each_reserved_character_of_a_password_is_named_with_its_encoding() {
        let code = |these: &str| format!("percent-encode {these} in the password");
        for (password, words) in [
            ("ab#cd", code("# as %23")),
            ("ab/cd", code("/ as %2F")),
            ("ab?cd", code("? as %3F")),
            ("12/34", code("/ as %2F")),
            ("12#34", code("# as %23")),
            ("12?34", code("? as %3F")),
            ("a/b?c#d", code("# as %23, / as %2F and ? as %3F")),
            ("a@b/c", code("/ as %2F and @ as %40")),
            ("a/b@c", code("/ as %2F and @ as %40")),
            ("a[b]/c", code("/ as %2F, [ as %5B and ] as %5D")),
            ("a:b/c d", code("/ as %2F, : as %3A and a space as %20")),
            ("a%/c", code("/ as %2F and % as %25")),
            (
                "a%ff",
                format!(
                    "the password has a % that begins no character of UTF-8; {}",
                    code("% as %25")
                ),
            ),
            (
                "a\tb",
                "it holds U+0009 TAB; no control character is allowed, not even percent-encoded"
                    .to_owned(),
            ),
        ] {
            let words = Some(&*words);
            for host in ["h/db", "h:5432/db", "[::1]:5432/db", "10.0.0.1", "h"] {
                let address = format!("postgres://user:{password}@{host}");
                assert_eq!(problem(&address).as_deref(), words, "{address}");
            }
            let address = format!("postgres://user:{password}@h/db?application_name=me@work");
            assert_eq!(problem(&address).as_deref(), words, "{address}");
            let address = format!("redis://:{password}@h:6379/0");
            assert_eq!(problem(&address).as_deref(), words, "{address}");
        }
    }

    #[test]
    fn reserved_characters_of_a_user_are_told_from_those_of_a_password() {
        for (credentials, words) in [
            ("us#er:pw", "# as %23 in the user"),
            ("us#er", "# as %23 in the user"),
            ("us@er/:pw", "/ as %2F and @ as %40 in the user"),
            (
                "us/er:p?w",
                "/ as %2F in the user; ? as %3F in the password",
            ),
        ] {
            for behind in ["h/db", "h:5432/db?application_name=me@work"] {
                let address = format!("postgres://{credentials}@{behind}");
                let words = format!("percent-encode {words}");
                assert_eq!(problem(&address), Some(words), "{address}");
            }
        }
    }

    #[test]
    fn what_copying_left_is_named_with_its_place_and_never_in_a_password() {
        for (address, words) in [
            (
                "postgres://u:p@h/db\u{200b}",
                "it ends with U+200B ZERO WIDTH SPACE; remove it",
            ),
            (
                "postgres://u:p@h/db\"",
                "it ends with U+0022 QUOTATION MARK",
            ),
            ("postgres://u:p@h/db'", "it ends with U+0027 APOSTROPHE"),
            (
                "postgres://u:p@h/db?sslmode=require\u{201d}",
                "it ends with U+201D",
            ),
            (
                "postgres://u:p@h\u{a0}",
                "it ends with U+00A0 NO-BREAK SPACE",
            ),
            (
                "postgres://h\u{feff}/db",
                "the host holds U+FEFF BYTE ORDER MARK",
            ),
            ("postgres://u:p@h\u{2011}1:5432/db", "the host holds U+2011"),
            ("postgres://u:p@h/d\u{200d}b", "the path holds U+200D"),
            (
                "redis://:p@h:6379/0\"",
                "it ends with U+0022 QUOTATION MARK",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.starts_with(words), "{address}: {problem}");
        }
        for address in [
            "postgres://u:p\u{2014}'\"@h/db",
            "postgres://u\u{200b}:p@h/db",
            "postgres://u:p@h/o'brien",
            "postgres://u:p@h/db%E2%80%8B",
            "postgres://u:p@h/b\u{fc}ro",
            "postgres://h/db?application_name=it's&password=p\u{201d}",
        ] {
            assert_eq!(problem(address), None, "{address}");
        }
    }

    #[test]
    fn no_sign_is_named_that_may_be_one_of_a_password() {
        for sign in ['"', '\'', '\u{200b}', '\u{201d}', '\u{2011}', '\u{a0}'] {
            for address in [
                format!("postgres://u:secret{sign}"),
                format!("postgres://u:pa/ss{sign}"),
                format!("postgres://u:pa/s{sign}s"),
                format!("postgres://u:pa?s{sign}s{sign}"),
                format!("redis://:pa?ss{sign}"),
                format!("redis://:pa#ss{sign}"),
                format!("postgres://h/db?password=a&b{sign}"),
                format!("postgres://h/db?password=a{sign}&b=c&d{sign}"),
                format!("postgres://h/db?pass%77ord=a&sslmode=disable{sign}"),
                format!("postgres://h?sslmode=disable&password=a?b&c{sign}"),
            ] {
                let problem = problem(&address).unwrap_or_default();
                assert!(!problem.contains("U+"), "{address}: {problem}");
                assert!(!problem.contains(&encoded(sign)), "{address}: {problem}");
            }
        }
    }

    #[test]
    fn a_sign_is_encoded_where_that_works() {
        for (address, remedy) in [
            ("postgres://u:p@h\u{a0}", "; remove it"),
            ("postgres://u:p@h:5432\"", "; remove it"),
            ("postgres://h\u{a0}h/db", "; remove it"),
            (
                "postgres://h/db\"",
                "; remove it, or percent-encode it as %22",
            ),
            (
                "postgres://h/d\u{200b}b",
                "; remove it, or percent-encode it as %E2%80%8B",
            ),
            (
                "postgres://h/db?application_name=a'",
                "; remove it, or percent-encode it as %27",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.ends_with(remedy), "{address}: {problem}");
        }
    }

    #[test]
    fn what_can_be_read_has_no_problem() {
        for address in [
            "postgres://h/db",
            "postgres://u@[::1]:5432/db",
            "postgres://u:p@h/db?application_name=me@work",
            "postgres://u:p@h?application_name=me@work",
            "postgres://h:5432?application_name=me@work",
            "postgres://u:a:b@h/db",
            "postgres://u:a@b@h/db",
            "postgres://u:100%@h/db",
            "postgres://u:a%23b@h/db",
            "postgres://u@%2Fvar%2Frun/db",
            "postgres://u:p@h/a%40b",
            "redis://:p@h:6379/2",
            "rediss://h",
        ] {
            assert_eq!(problem(address), None, "{address}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_which_part() {
        for (address, words) in [
            ("postgres:h/db", "two slashes"),
            (
                "postgres://u@::1:5432/db",
                "an IPv6 address must be in brackets",
            ),
            ("postgres://u@[::1/db", "no IPv6 address"),
            ("postgres://u@[::z]/db", "no IPv6 address"),
            ("postgres://u@[::z%25lo]/db", "no IPv6 address"),
            ("postgres://u:p@[fe80::1%25lo]:5432/db", "has a zone"),
            ("rediss://[fe80::1%eth0]", "has a zone"),
            ("postgres://u@h:port/db", "the port is not a number"),
            ("postgres://u@h:70000/db", "the port is not a number"),
            ("postgres://u@h:0/db", "the port is not a number"),
            ("redis://h:0", "the port is not a number"),
            (
                "postgres://u:secret",
                "a user and a password are followed by an @",
            ),
            ("postgres://u:p@/db", "the host is missing"),
            ("postgres:///db", "the host is missing"),
            ("postgres://u:p@a b/db", "no host's name"),
            ("postgres://u:p@h1:1,h2:2/db", "several hosts"),
            ("postgres://u:p@h/db#x", "percent-encode # as %23"),
            ("postgres://u%00:s3cret@h/db", "the user holds U+0000 NUL;"),
            (
                "postgres://u:s3cret%0A@h/db",
                "the password holds U+000A LINE FEED;",
            ),
            ("postgres://u:s3cret@h%00/db", "the host holds U+0000 NUL;"),
            (
                "postgres://u:s3cret@h/d%7Fb",
                "the path holds U+007F DELETE;",
            ),
            (
                "redis://:s3cret%C2%85@h",
                "the password holds U+0085 NEXT LINE;",
            ),
            ("redis://:s3cret@%1Bh", "the host holds U+001B ESCAPE;"),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            assert!(!problem.contains("s3cret"), "{address}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_password_is_read_and_a_plain_one_is_never_quoted(password in "[ -~]{6,20}") {
            // A password that looks like a parameter cannot be told from one.
            prop_assume!(!(password.contains('?') && password.contains('=')));
            let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC);
            prop_assert_eq!(problem(&format!("postgres://u:{encoded}@h/db")), None);
            let address = format!("postgres://u:{password}@h/db");
            match problem(&address) {
                Some(problem) => prop_assert!(!problem.contains(&password), "{}", problem),
                None => {
                    // What has no problem means what was written.
                    let url = Url::parse(&address).unwrap();
                    let read = percent_decode_str(url.password().unwrap_or_default());
                    let meant = percent_decode_str(&password).decode_utf8_lossy();
                    prop_assert_eq!(url.host_str(), Some("h"));
                    prop_assert_eq!(read.decode_utf8_lossy(), meant);
                }
            }
        }

        #[test]
        fn no_text_panics(text in "[a-z:/@?#%\\[\\]0-9 ]{0,40}") {
            let _ = problem(&format!("postgres://{text}"));
        }
    }
}
