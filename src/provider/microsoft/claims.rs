//! Reads claims of an access token. Graph tokens are opaque by contract: every claim may be absent, none is
//! trusted for access, and no signature is checked.

use super::evidence;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Claims of one token, as far as they can be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// The directory that issued it.
    pub tid: Option<Uuid>,
    /// Names of the granted application permissions. `None` when the token cannot be read; empty when it is
    /// one of Microsoft Entra's and has none.
    pub roles: Option<BTreeSet<String>>,
}

impl Claims {
    /// Reads what it can; an opaque token has no claims.
    pub fn read(token: &str) -> Self {
        let Some(body) = payload(token) else {
            return Self::default();
        };
        let tid = evidence::guid(body.get("tid").and_then(Value::as_str));
        let roles = match body.get("roles") {
            Some(Value::Array(roles)) => Some(
                roles
                    .iter()
                    .filter_map(Value::as_str)
                    .filter(|name| evidence::is_permission_name(name))
                    .map(str::to_owned)
                    .collect(),
            ),
            Some(_) => None,
            // Microsoft Entra leaves the claim out when nothing is granted.
            None => tid.map(|_| BTreeSet::new()),
        };
        Self { tid, roles }
    }
}

/// The claims of a JWT, unverified.
pub(super) fn payload(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, body, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let bytes = URL_SAFE_NO_PAD.decode(body.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Value>(&bytes)
        .ok()
        .filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn opaque_tokens_have_no_claims() {
        for opaque in ["", "abc", "a.b", "a.b.c.d", "a.!!.c", "e30.W10.s"] {
            assert_eq!(Claims::read(opaque), Claims::default(), "{opaque}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,200}") {
            let _ = Claims::read(&text);
        }
    }
}
