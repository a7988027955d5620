//! Secrets and signatures of the Standard Webhooks specification, version `v1`: HMAC-SHA256 over
//! `id.timestamp.body`, in base64.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// What a secret begins with where people see it.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that is made here; the specification allows 24 to 64.
const SECRET_BYTES: usize = 32;

/// A fresh secret.
pub fn fresh_secret() -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let mut secret = Zeroizing::new(vec![0; SECRET_BYTES]);
    rand::fill(&mut secret)?;
    Ok(secret)
}

/// The secret as its receiver needs it: `whsec_` and base64.
pub fn shown(secret: &[u8]) -> SecretString {
    SecretString::from(format!("{PREFIX}{}", STANDARD.encode(secret)))
}

/// `webhook-signature`: one `v1` signature for each secret, separated by spaces.
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a [u8]>,
    id: &str,
    timestamp: i64,
    body: &str,
) -> String {
    let content = format!("{id}.{timestamp}.{body}");
    let signatures: Vec<String> = secrets
        .into_iter()
        .map(|secret| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let tag = hmac::sign(&key, content.as_bytes());
            format!("v1,{}", STANDARD.encode(tag))
        })
        .collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn secret(shown: &str) -> Vec<u8> {
        STANDARD
            .decode(shown.strip_prefix(PREFIX).unwrap())
            .unwrap()
    }

    /// The vector that the specification's own libraries are tested with.
    #[test]
    fn the_published_example_is_signed_as_published() {
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = sign(
            [&secret[..]],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn during_a_rotation_both_secrets_sign() {
        let (new, old) = (fresh_secret().unwrap(), fresh_secret().unwrap());
        let both = sign([&new[..], &old[..]], "msg_1", 1, "{}");
        let each: Vec<String> = [&new, &old]
            .map(|secret| sign([&secret[..]], "msg_1", 1, "{}"))
            .into();
        assert_eq!(both.split(' ').collect::<Vec<_>>(), each);
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn secrets_are_fresh_and_shown_in_their_form() {
        let (one, two) = (fresh_secret().unwrap(), fresh_secret().unwrap());
        assert_ne!(one, two);
        assert_eq!(secret(shown(&one).expose_secret()), *one);
        assert!((24..=64).contains(&one.len()));
    }
}
