//! Finds groups or roles among claims.

use super::id_token::Claims;
use serde_json::Value;

/// Returns the claim of this name. Where there is none, a dot leads into an object, as in Keycloak's
/// `realm_access.roles`.
fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        name.match_indices('.').find_map(|(at, _)| {
            let inner = claims.get(&name[..at])?.as_object()?;
            find(inner, &name[at + 1..])
        })
    })
}

/// The values of a claim: a text, or a list of texts.
pub(super) fn values(claims: &Claims, claim: &str) -> Vec<String> {
    match find(claims, claim) {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => {
            let texts = several.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the claim may be in userinfo: it is not here, and nothing says that it is elsewhere.
pub(super) fn is_absent(claims: &Claims, claim: &str) -> bool {
    find(claims, claim).is_none() && !is_left_out(claims, claim)
}

/// Whether the provider says of the claim that it is elsewhere, as Microsoft Entra does of many groups: OpenID Connect
/// Core 1.0, 5.6.2. It is not fetched from there.
pub(super) fn is_left_out(claims: &Claims, claim: &str) -> bool {
    let elsewhere = claims.get("_claim_names");
    elsewhere.is_some_and(|names| {
        let mut dots = claim.match_indices('.');
        names.get(claim).is_some() || dots.any(|(at, _)| names.get(&claim[..at]).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(claims: Value) -> Claims {
        serde_json::from_value(claims).unwrap()
    }

    #[test]
    fn a_claim_is_a_text_or_a_list_of_texts() {
        let claims = claims(json!({ "a": "x", "b": ["x", 1, "y"], "c": { "x": 1 } }));
        assert_eq!(values(&claims, "a"), ["x"]);
        assert_eq!(values(&claims, "b"), ["x", "y"]);
        assert!(values(&claims, "c").is_empty() && values(&claims, "d").is_empty());
    }

    #[test]
    fn a_dot_leads_into_an_object_where_no_claim_has_the_whole_name() {
        let claims = claims(json!({
            "realm_access": { "roles": ["a"] },
            "resource_access": { "verifyd.example": { "roles": ["b"] }, "verifyd": "x" },
            "https://x.example/groups": ["c"],
            "p.q": { "r.s": "d" },
            "p": { "q": "e" },
            "list": [{ "q": "f" }],
        }));
        for (name, found) in [
            ("realm_access.roles", Some("a")),
            ("resource_access.verifyd.example.roles", Some("b")),
            ("https://x.example/groups", Some("c")),
            ("p.q.r.s", Some("d")),
            ("realm_access.roles.x", None),
            ("realm_access.", None),
            (".roles", None),
            ("resource_access.verifyd.roles", None),
            ("list.0.q", None),
            ("", None),
        ] {
            let values = values(&claims, name);
            assert_eq!(values.first().map(String::as_str), found, "{name}");
            assert_eq!(is_absent(&claims, name), found.is_none(), "{name}");
        }
        // The claim of the whole name counts, whatever it holds.
        assert!(values(&claims, "p.q").is_empty() && !is_absent(&claims, "p.q"));
    }

    #[test]
    fn what_is_elsewhere_is_not_asked_for() {
        let elsewhere =
            claims(json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": {} }));
        assert!(is_left_out(&elsewhere, "groups") && !is_absent(&elsewhere, "groups"));
        assert!(!is_left_out(&elsewhere, "roles") && is_absent(&elsewhere, "roles"));
        assert!(is_left_out(&elsewhere, "groups.of.kim") && !is_left_out(&elsewhere, "my.groups"));
        let odd = claims(json!({ "_claim_names": "groups" }));
        assert!(!is_left_out(&odd, "groups"));
    }
}
