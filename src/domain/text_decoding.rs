//! Decodes text from files, standard input and the environment, also as tools of Windows write it.
//!
//! One rule for every secret, key, certificate, token and address that is not an argument: a byte order mark
//! at the start is removed, UTF-16 (which PowerShell's `>` writes) is decoded, and one line end at the end is
//! removed.

use std::fmt;
use zeroize::Zeroizing;

/// The byte order mark, as a character.
const MARK: char = '\u{feff}';

/// Why bytes are no text. Bytes are counted from 1. Never quotes any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("byte {at} is not UTF-8; {ALLOWED}")]
    NotUtf8 { at: usize },
    #[error("byte {at} is NUL; {ALLOWED}")]
    Nul { at: usize },
    #[error("it begins like UTF-16 and is not UTF-16 from byte {at} on; {ALLOWED}")]
    NotUtf16 { at: usize },
}

const ALLOWED: &str = "allowed is text in UTF-8, or in UTF-16 with a byte order mark";

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

/// The text that the bytes are, without a byte order mark. Wiped when dropped, and never moved while it
/// grows.
pub fn decode(bytes: &[u8]) -> Result<Zeroizing<String>, TextError> {
    let (text, width) = match bytes {
        [0xff, 0xfe, rest @ ..] => (utf16(rest, Order::Little)?, 2),
        [0xfe, 0xff, rest @ ..] => (utf16(rest, Order::Big)?, 2),
        _ => match without_mark(bytes) {
            Some(order) => (utf16(bytes, order)?, 2),
            None => (utf8(bytes)?, 1),
        },
    };
    match text.find('\0') {
        Some(at) => Err(TextError::Nul { at: at * width + 1 }),
        None => Ok(text),
    }
}

fn utf8(bytes: &[u8]) -> Result<Zeroizing<String>, TextError> {
    let text = std::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 {
        at: error.valid_up_to() + 1,
    })?;
    Ok(Zeroizing::new(without_byte_order_mark(text).to_owned()))
}

/// Detects UTF-16 without a byte order mark: as long as all text is ASCII, every other byte is zero.
fn without_mark(bytes: &[u8]) -> Option<Order> {
    if bytes.len() < 4 || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let ascii = |high: usize| {
        bytes
            .chunks_exact(2)
            .all(|unit| unit[high] == 0 && unit[1 - high] != 0)
    };
    if ascii(1) {
        Some(Order::Little)
    } else if ascii(0) {
        Some(Order::Big)
    } else {
        None
    }
}

fn utf16(bytes: &[u8], order: Order) -> Result<Zeroizing<String>, TextError> {
    let units = bytes.chunks_exact(2).map(|unit| match order {
        Order::Little => u16::from_le_bytes([unit[0], unit[1]]),
        Order::Big => u16::from_be_bytes([unit[0], unit[1]]),
    });
    // At most three bytes for a unit, so the buffer never moves.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() / 2 * 3));
    let mut at = 1;
    for character in char::decode_utf16(units) {
        let character = character.map_err(|_| TextError::NotUtf16 { at })?;
        at += 2 * character.len_utf16();
        text.push(character);
    }
    if !bytes.len().is_multiple_of(2) {
        return Err(TextError::NotUtf16 { at: bytes.len() });
    }
    Ok(text)
}

/// The text without a byte order mark in front.
pub fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The text without the one line end at its end.
pub fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The lines of a text, which end with LF, CR LF or CR.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('\r'))
}

/// Whether a text begins or ends with a blank. It may be meant, so a secret with one is suspected only once it is
/// refused.
pub fn has_blank_around(text: &str) -> bool {
    text.trim() != text
}

/// A character as a message shows it: `U+00A0 NO-BREAK SPACE`. Characters of ordinary scripts have their
/// number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub char);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.0))?;
        match name(self.0) {
            Some(name) => write!(f, " {name}"),
            None => Ok(()),
        }
    }
}

/// Whether copying may have left this character in a text: a quotation mark, or one that is invisible or typographic. A
/// plain space is none.
pub fn is_left_by_copying(character: char) -> bool {
    character != ' ' && name(character).is_some()
}

/// Returns Unicode's name of a character that copying from portals, documents and terminals leaves in a text.
fn name(character: char) -> Option<&'static str> {
    Some(match character {
        '\0' => "NUL",
        '\u{7}' => "BELL",
        '\u{8}' => "BACKSPACE",
        '\t' => "TAB",
        '\n' => "LINE FEED",
        '\r' => "CARRIAGE RETURN",
        '\u{1b}' => "ESCAPE",
        ' ' => "SPACE",
        '"' => "QUOTATION MARK",
        '\'' => "APOSTROPHE",
        '\u{7f}' => "DELETE",
        '\u{85}' => "NEXT LINE",
        '\u{0}'..='\u{1f}' | '\u{80}'..='\u{9f}' => "CONTROL",
        '\u{a0}' => "NO-BREAK SPACE",
        '\u{ad}' => "SOFT HYPHEN",
        '\u{2002}' => "EN SPACE",
        '\u{2003}' => "EM SPACE",
        '\u{2007}' => "FIGURE SPACE",
        '\u{2009}' => "THIN SPACE",
        '\u{200b}' => "ZERO WIDTH SPACE",
        '\u{200c}' => "ZERO WIDTH NON-JOINER",
        '\u{200d}' => "ZERO WIDTH JOINER",
        '\u{200e}' => "LEFT-TO-RIGHT MARK",
        '\u{200f}' => "RIGHT-TO-LEFT MARK",
        '\u{2010}' => "HYPHEN",
        '\u{2011}' => "NON-BREAKING HYPHEN",
        '\u{2013}' => "EN DASH",
        '\u{2014}' => "EM DASH",
        '\u{2018}' => "LEFT SINGLE QUOTATION MARK",
        '\u{2019}' => "RIGHT SINGLE QUOTATION MARK",
        '\u{201c}' => "LEFT DOUBLE QUOTATION MARK",
        '\u{201d}' => "RIGHT DOUBLE QUOTATION MARK",
        '\u{2026}' => "HORIZONTAL ELLIPSIS",
        '\u{2028}' => "LINE SEPARATOR",
        '\u{2029}' => "PARAGRAPH SEPARATOR",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "DIRECTION CONTROL",
        '\u{202f}' => "NARROW NO-BREAK SPACE",
        '\u{2060}' => "WORD JOINER",
        '\u{3000}' => "IDEOGRAPHIC SPACE",
        '\u{feff}' => "BYTE ORDER MARK",
        '\u{fffd}' => "REPLACEMENT CHARACTER",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> String {
        decode(bytes).unwrap().to_string()
    }

    fn utf16_of(text: &str, order: Order, mark: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let units = mark.then_some(0xfeff).into_iter();
        for unit in units.chain(text.encode_utf16()) {
            bytes.extend(match order {
                Order::Little => unit.to_le_bytes(),
                Order::Big => unit.to_be_bytes(),
            });
        }
        bytes
    }

    #[test]
    fn what_is_no_text_is_named_with_its_place() {
        for (bytes, error) in [
            (&b"ab\xff"[..], TextError::NotUtf8 { at: 3 }),
            (b"a\0b", TextError::Nul { at: 2 }),
            // UTF-32 has UTF-16's mark.
            (b"\xff\xfe\0\0a\0\0\0", TextError::Nul { at: 1 }),
            (b"\xff\xfea", TextError::NotUtf16 { at: 1 }),
            (b"\xff\xfea\0\0\xd8", TextError::NotUtf16 { at: 3 }),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:?}");
            assert!(error.to_string().contains("UTF-16"), "{error}");
        }
    }

    #[test]
    fn one_line_end_does_not_count() {
        for (text, rest) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\r", "a"),
            ("a\n\n", "a\n"),
            ("a ", "a "),
            ("", ""),
        ] {
            assert_eq!(without_line_end(text), rest, "{text:?}");
        }
    }

    #[test]
    fn each_of_the_three_line_ends_ends_a_line() {
        for text in ["a\nb\n", "a\r\nb\r\n", "a\rb", "a\rb\n"] {
            assert_eq!(lines(text).collect::<Vec<_>>(), ["a", "b"], "{text:?}");
        }
    }

    #[test]
    fn characters_have_their_names() {
        assert_eq!(Named('\u{a0}').to_string(), "U+00A0 NO-BREAK SPACE");
        assert_eq!(Named('ä').to_string(), "U+00E4");
        assert!(is_left_by_copying('\u{200b}') && is_left_by_copying('"'));
        assert!(!is_left_by_copying(' ') && !is_left_by_copying('ä'));
    }

    proptest! {
        #[test]
        fn every_encoding_gives_the_same_text(text in "[^\\x00\u{feff}]{0,60}") {
            prop_assert_eq!(read(text.as_bytes()), text.clone());
            let marked = format!("\u{feff}{text}");
            prop_assert_eq!(read(marked.as_bytes()), text.clone());
            for order in [Order::Little, Order::Big] {
                let bytes = utf16_of(&text, order, true);
                prop_assert_eq!(read(&bytes), text.clone());
            }
        }

        #[test]
        fn ascii_in_utf16_needs_no_mark(text in "[ -~]{2,60}") {
            for order in [Order::Little, Order::Big] {
                let bytes = utf16_of(&text, order, false);
                prop_assert_eq!(read(&bytes), text.clone());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
