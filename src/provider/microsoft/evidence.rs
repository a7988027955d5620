//! Decides which parts of an answer may become evidence: codes and ids of a narrow form. Everything else,
//! free text above all, stays out of reports and logs.

use serde_json::Value;
use uuid::Uuid;

/// Returns an error code: letters, digits, `_` and `-`, at most 64. No dot, so no token matches.
pub(super) fn code(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    })
}

/// An id of a request: a GUID.
pub(super) fn guid(text: Option<&str>) -> Option<Uuid> {
    text.and_then(|text| Uuid::try_parse(text).ok())
}

/// Longest name of a permission or role.
const MAX_PERMISSION_NAME: usize = 120;

/// The name of a permission or role: what Microsoft Entra allows as `value` of an app role. No blank, no
/// quotation mark, no angle bracket, nothing beyond ASCII.
pub(super) fn is_permission_name(text: &str) -> bool {
    const SIGNS: &[u8] = b":!#$%&'()*+,-./;=?@[]^_`{|}~";
    (1..=MAX_PERMISSION_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || SIGNS.contains(&b))
}

/// Returns whether the text has the form of Microsoft Graph's names: letters, digits and `.`, `_`, `-`, `:`,
/// `/`. Names within a text end at other characters.
pub(super) fn is_plain_permission_name(text: &str) -> bool {
    (1..=MAX_PERMISSION_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_codes_of_a_narrow_shape_pass() {
        assert_eq!(
            code(Some(&json!("Authorization_RequestDenied"))),
            Some("Authorization_RequestDenied")
        );
        for bad in [
            json!(""),
            json!("eyJhbGciOi.eyJzdWIi.c2ln"),
            json!("a b"),
            json!(7),
            json!("x".repeat(65)),
        ] {
            assert_eq!(code(Some(&bad)), None, "{bad}");
        }
        assert_eq!(guid(Some("not a guid")), None);
        assert!(is_permission_name("Organization.Read.All"));
        assert!(is_permission_name("Orders(Write)+[all],v=1;a|b"));
        for bad in ["", "a\u{202E}b", "a b", "<b>", "a\"b", "a\\b", "a\nb", "é"] {
            assert!(!is_permission_name(bad), "{bad}");
        }
        assert!(!is_permission_name(&"a".repeat(121)));
        assert!(!is_plain_permission_name("Mail.Read,"));
    }
}
