//! The text of API tokens: `vfd_`, 32 random bytes, and a checksum.
//!
//! Prefix and checksum let secret scanners recognise a token, and let a typing error be detected without a
//! query.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// The prefix of every token.
pub const PREFIX: &str = "vfd_";
/// Characters of the random part: 32 bytes in base64url.
const BODY: usize = 43;
/// Characters of the checksum: 3 bytes of SHA-256 in base64url.
const CHECKSUM: usize = 4;
/// Characters of a token.
pub const LENGTH: usize = PREFIX.len() + BODY + CHECKSUM;

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system provides no random bytes")]
pub struct NoRandomness;

/// A token that no one has yet.
pub fn fresh() -> Result<SecretString, NoRandomness> {
    let body = random_text()?;
    let body = body.expose_secret();
    Ok(SecretString::from(format!(
        "{PREFIX}{body}{}",
        checksum(body)
    )))
}

/// 32 random bytes in base64url, 43 characters: for session cookies and what forms must carry.
pub fn random_text() -> Result<SecretString, NoRandomness> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| NoRandomness)?;
    Ok(SecretString::from(URL_SAFE_NO_PAD.encode(&bytes[..])))
}

/// Returns the stored form of a token, its SHA-256 in lowercase hex. `None` when the text is no token.
pub fn hash(token: &str) -> Option<String> {
    let rest = token.strip_prefix(PREFIX)?;
    if !rest.is_ascii() || rest.len() != BODY + CHECKSUM {
        return None;
    }
    let (body, found) = rest.split_at(BODY);
    (checksum(body) == found).then(|| sha256_hex(token))
}

/// Returns the SHA-256 in lowercase hex. It suffices for values that are random and long.
pub fn sha256_hex(text: &str) -> String {
    hex::encode(sha256(text.as_bytes()))
}

fn checksum(body: &str) -> String {
    URL_SAFE_NO_PAD.encode(&sha256(body.as_bytes()).as_ref()[..3])
}

fn sha256(bytes: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_token_is_recognised_and_no_two_are_the_same() {
        let one = fresh().unwrap();
        let two = fresh().unwrap();
        assert_ne!(one.expose_secret(), two.expose_secret());
        for token in [&one, &two] {
            let text = token.expose_secret();
            assert_eq!(text.len(), LENGTH);
            let hash = hash(text).unwrap();
            assert_eq!(hash.len(), 64);
            assert!(!hash.contains(text));
        }
    }

    #[test]
    fn a_typing_error_anywhere_is_noticed() {
        let token = fresh().unwrap();
        let token = token.expose_secret();
        for at in 0..token.len() {
            let mut wrong = token.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(hash(&wrong), None, "{at}");
        }
        for wrong in ["", "vfd_", &token[1..], &format!("{token}a"), "vfd_ü"] {
            assert_eq!(hash(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_the_one_that_everybody_computes() {
        assert_eq!(
            sha256_hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
