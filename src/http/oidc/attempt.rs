//! What the browser keeps between the start of a sign-in and its return: one cookie, so that any replica can go on.
//!
//! State, nonce and PKCE verifier are hashes of the cookie. The state, which the provider returns, thereby
//! authenticates the cookie, and tells nobody the other two.

use crate::domain::token::{NoRandomness, random_text, sha256_hex};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use std::ops::RangeInclusive;

/// Time in seconds that a person has at the provider.
pub(super) const LIFETIME: i64 = 600;

/// Age in seconds of a cookie that is accepted: clocks of replicas may differ.
const AGES: RangeInclusive<i64> = -60..=LIFETIME;

/// Longest path that is kept, in bytes.
const NEXT_BYTES: usize = 1024;

/// Longest cookie, in bytes: a time, 43 characters, and a path in base64url.
pub const COOKIE_BYTES: usize = 64 + 43 + NEXT_BYTES * 4 / 3 + 4;

/// A sign-in that has begun.
#[derive(Debug)]
pub(super) struct Attempt {
    pub cookie: SecretString,
    /// Where the person goes on.
    pub next: String,
}

impl Attempt {
    pub(super) fn begin(next: &str, now: DateTime<Utc>) -> Result<Self, NoRandomness> {
        let next = if next.len() > NEXT_BYTES { "/" } else { next };
        let secret = random_text()?;
        let cookie = format!(
            "{}.{}.{}",
            now.timestamp(),
            secret.expose_secret(),
            URL_SAFE_NO_PAD.encode(next)
        );
        Ok(Self {
            cookie: cookie.into(),
            next: next.to_owned(),
        })
    }

    /// Reads a cookie, if the answer with this state belongs to it and it is not too old.
    pub(super) fn resume(cookie: &str, state: &str, now: DateTime<Utc>) -> Option<Self> {
        let mut parts = cookie.split('.');
        let (begun, _secret, next) = (parts.next()?, parts.next()?, parts.next()?);
        let begun: i64 = begun.parse().ok()?;
        let next = String::from_utf8(URL_SAFE_NO_PAD.decode(next).ok()?).ok()?;
        let attempt = Self {
            cookie: cookie.to_owned().into(),
            next,
        };
        let is_ours = verify_slices_are_equal(attempt.state().as_bytes(), state.as_bytes()).is_ok();
        let age = now.timestamp().checked_sub(begun)?;
        (is_ours && AGES.contains(&age)).then_some(attempt)
    }

    pub(super) fn state(&self) -> String {
        self.derived("state")
    }

    pub(super) fn nonce(&self) -> String {
        self.derived("nonce")
    }

    /// The verifier of PKCE: 64 characters.
    pub(super) fn verifier(&self) -> String {
        self.derived("verifier")
    }

    /// Its challenge by the method S256.
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier().as_bytes()))
    }

    fn derived(&self, purpose: &str) -> String {
        sha256_hex(&format!("{purpose} {}", self.cookie.expose_secret()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
    }

    #[test]
    fn an_attempt_goes_on_in_another_process_for_ten_minutes() {
        let begun = Attempt::begin("/runs?state=failed", at(0)).unwrap();
        let (cookie, state) = (begun.cookie.expose_secret(), begun.state());
        assert!(cookie.len() <= COOKIE_BYTES);
        for (seconds, goes_on) in [
            (0, true),
            (-60, true),
            (-61, false),
            (600, true),
            (601, false),
        ] {
            let resumed = Attempt::resume(cookie, &state, at(seconds));
            assert_eq!(resumed.is_some(), goes_on, "{seconds}");
        }
        let resumed = Attempt::resume(cookie, &state, at(1)).unwrap();
        assert_eq!(resumed.next, "/runs?state=failed");
        assert_eq!(resumed.nonce(), begun.nonce());
        assert_eq!(resumed.verifier(), begun.verifier());
        let all = [begun.state(), begun.nonce(), begun.verifier()];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        let other = Attempt::begin("/", at(0)).unwrap();
        assert_ne!(other.state(), begun.state());
    }

    #[test]
    fn what_is_changed_in_the_cookie_or_the_state_is_noticed() {
        let begun = Attempt::begin("/", at(0)).unwrap();
        let (cookie, state) = (begun.cookie.expose_secret(), begun.state());
        let resumes = |cookie: &str, state: &str| Attempt::resume(cookie, state, at(1)).is_some();
        assert!(resumes(cookie, &state));
        for at in 0..cookie.len() {
            let mut changed = cookie.as_bytes().to_vec();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            assert!(
                !resumes(&String::from_utf8(changed).unwrap(), &state),
                "{at}"
            );
        }
        for wrong in ["", &state[1..], &begun.nonce(), &format!("{state}0")] {
            assert!(!resumes(cookie, wrong), "{wrong}");
        }
        for wrong in ["", ".", "..", "a.b.c", "1"] {
            assert!(!resumes(wrong, &state), "{wrong}");
        }
    }

    #[test]
    fn the_challenge_is_that_of_rfc_7636() {
        let attempt = Attempt::begin("/", at(0)).unwrap();
        let (verifier, challenge) = (attempt.verifier(), attempt.challenge());
        assert!((43..=128).contains(&verifier.len()));
        let hash = hex::decode(sha256_hex(&verifier)).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(challenge).unwrap(), hash);
        let long = Attempt::begin(&"/x".repeat(NEXT_BYTES), at(0)).unwrap();
        assert_eq!(long.next, "/");
    }
}
