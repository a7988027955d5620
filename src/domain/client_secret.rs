//! The characters of a client secret, by RFC 6749, appendix A.2.

use super::text_decoding::Named;

/// Longest client secret, in bytes. Entra's have 40.
const MAX_BYTES: usize = 4096;

/// Why a text is no client secret. Bytes are counted from 1. Names a character only if no client secret may
/// contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("byte {at} is a space at its beginning or end, most likely copied by mistake")]
    Space { at: usize },
    #[error("byte {at} is {}; a client secret has only printable ASCII characters (0x20 to 0x7E)", Named(*.character))]
    Character { at: usize, character: char },
}

/// Refuses a text that RFC 6749 does not allow, or that was copied together with a space.
pub fn check(secret: &str) -> Result<(), SecretError> {
    if secret.is_empty() {
        return Err(SecretError::Empty);
    }
    if secret.len() > MAX_BYTES {
        return Err(SecretError::TooLong);
    }
    if let Some((at, character)) = secret
        .char_indices()
        .find(|(_, c)| !(' '..='~').contains(c))
    {
        return Err(SecretError::Character {
            at: at + 1,
            character,
        });
    }
    if secret.starts_with(' ') {
        return Err(SecretError::Space { at: 1 });
    }
    if secret.ends_with(' ') {
        return Err(SecretError::Space { at: secret.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (secret, words) in [
            ("", "it is empty"),
            ("\u{feff}ab", "byte 1 is U+FEFF BYTE ORDER MARK"),
            ("ab\u{a0}", "byte 3 is U+00A0 NO-BREAK SPACE"),
            ("ab\n", "byte 3 is U+000A LINE FEED"),
            ("ä", "byte 1 is U+00E4;"),
            ("\u{201c}ab\u{201d}", "byte 1 is U+201C LEFT DOUBLE"),
            (" ab", "byte 1 is a space"),
            ("ab ", "byte 3 is a space"),
        ] {
            let error = check(secret).unwrap_err().to_string();
            assert!(error.contains(words), "{secret:?}: {error}");
        }
        assert_eq!(check(&"x".repeat(4097)), Err(SecretError::TooLong));
        assert_eq!(check(&"x".repeat(4096)), Ok(()));
        assert_eq!(check("a b~!Q.x_9"), Ok(()));
    }

    proptest! {
        #[test]
        fn exactly_what_the_rfc_allows_passes(secret in "\\PC{1,40}", inserted in any::<char>(), at in 0usize..40) {
            let mut characters: Vec<char> = secret.chars().collect();
            characters.insert(at.min(characters.len()), inserted);
            let secret: String = characters.iter().collect();
            let allowed = characters.iter().all(|c| (0x20..=0x7e).contains(&u32::from(*c)));
            let edge = secret.trim_matches(' ') != secret;
            prop_assert_eq!(check(&secret).is_ok(), allowed && !edge);
            if let Err(error) = check(&secret) {
                prop_assert!(secret.len() < 8 || !error.to_string().contains(&secret));
            }
        }
    }
}
