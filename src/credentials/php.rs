//! Parses the output of PHP's `serialize()`, as far as Laravel's `encrypt()` uses it: strings, integers,
//! booleans, null, and arrays of them.
//!
//! The crates for this format map it to serde and so support neither arrays with mixed keys nor limits of
//! depth; objects and references, the dangerous part of the format, are refused here.

use std::ops::Range;

/// Deepest nesting of arrays.
const MAX_DEPTH: u32 = 8;
/// Largest number of values in all arrays.
const MAX_VALUES: u32 = 512;

/// A value. Strings are ranges of the input, so that nothing secret is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Php {
    Null,
    Bool(bool),
    Int(i64),
    Text(Range<usize>),
    /// In their order; keys are integers or strings.
    Array(Vec<(Php, Php)>),
}

/// The input is not exactly one value of the known forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Whether the bytes begin like a serialised value. A bare secret practically never does.
pub(super) fn looks_serialised(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_at_checked(2) else {
        return false;
    };
    if kind == b"N;" {
        return rest.is_empty();
    }
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let after = &rest[digits..];
    match kind {
        b"s:" | b"O:" => digits > 0 && after.starts_with(b":\""),
        b"a:" => digits > 0 && after.starts_with(b":{"),
        b"i:" | b"b:" => digits > 0 && after == b";",
        _ => false,
    }
}

/// The one value that the bytes are.
pub(super) fn unserialize(bytes: &[u8]) -> Result<Php, Unreadable> {
    let mut reader = Reader {
        bytes,
        at: 0,
        left: MAX_VALUES,
    };
    let value = reader.value(0)?;
    if reader.at == bytes.len() {
        Ok(value)
    } else {
        Err(Unreadable)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
}

impl Reader<'_> {
    fn value(&mut self, depth: u32) -> Result<Php, Unreadable> {
        self.left = self.left.checked_sub(1).ok_or(Unreadable)?;
        match self.byte()? {
            b'N' => {
                self.expect(b";")?;
                Ok(Php::Null)
            }
            b'b' => {
                self.expect(b":")?;
                let value = match self.byte()? {
                    b'0' => false,
                    b'1' => true,
                    _ => return Err(Unreadable),
                };
                self.expect(b";")?;
                Ok(Php::Bool(value))
            }
            b'i' => {
                self.expect(b":")?;
                let value = self.number(b';')?.parse().map_err(|_| Unreadable)?;
                Ok(Php::Int(value))
            }
            b's' => {
                self.expect(b":")?;
                let length = self.length()?;
                self.expect(b"\"")?;
                let end = self.at.checked_add(length).ok_or(Unreadable)?;
                if end > self.bytes.len() {
                    return Err(Unreadable);
                }
                let text = self.at..end;
                self.at = end;
                self.expect(b"\";")?;
                Ok(Php::Text(text))
            }
            b'a' if depth < MAX_DEPTH => {
                self.expect(b":")?;
                let length = self.length()?;
                self.expect(b"{")?;
                // Grown as it is read: the length is only a claim.
                let mut entries = Vec::new();
                for _ in 0..length {
                    let key = self.value(depth + 1)?;
                    if !matches!(key, Php::Int(_) | Php::Text(_)) {
                        return Err(Unreadable);
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                self.expect(b"}")?;
                Ok(Php::Array(entries))
            }
            _ => Err(Unreadable),
        }
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let byte = *self.bytes.get(self.at).ok_or(Unreadable)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, text: &[u8]) -> Result<(), Unreadable> {
        let rest = self.bytes.get(self.at..).ok_or(Unreadable)?;
        if !rest.starts_with(text) {
            return Err(Unreadable);
        }
        self.at += text.len();
        Ok(())
    }

    /// Reads digits, with an optional minus, up to the terminator. At most 20 characters.
    fn number(&mut self, terminator: u8) -> Result<&str, Unreadable> {
        let rest = self.bytes.get(self.at..).ok_or(Unreadable)?;
        let length = rest
            .iter()
            .take(21)
            .position(|&byte| byte == terminator)
            .ok_or(Unreadable)?;
        self.at += length + 1;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| Unreadable)?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Unreadable);
        }
        Ok(text)
    }

    fn length(&mut self) -> Result<usize, Unreadable> {
        self.number(b':')?.parse().map_err(|_| Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of<'a>(bytes: &'a [u8], value: &Php) -> &'a [u8] {
        match value {
            Php::Text(range) => &bytes[range.clone()],
            other => panic!("{other:?} is no text"),
        }
    }

    #[test]
    fn reads_strings_by_bytes_and_arrays_with_mixed_keys() {
        let bytes = "s:8:\"a\"ö\";\"b\";".as_bytes();
        let value = unserialize(bytes).unwrap();
        assert_eq!(text_of(bytes, &value), "a\"ö\";\"b".as_bytes());
        let bytes = b"a:4:{i:0;s:1:\"x\";s:1:\"k\";i:-5;i:7;N;i:8;a:1:{i:0;b:1;}}";
        let Php::Array(entries) = unserialize(bytes).unwrap() else {
            panic!("no array");
        };
        assert_eq!(entries.len(), 4);
        assert_eq!(text_of(bytes, &entries[0].1), b"x");
        assert_eq!(entries[1].1, Php::Int(-5));
        assert_eq!(entries[2].1, Php::Null);
        assert_eq!(
            entries[3].1,
            Php::Array(vec![(Php::Int(0), Php::Bool(true))])
        );
    }

    #[test]
    fn refuses_everything_else() {
        let deep = format!("{}i:1;{}", "a:1:{i:0;".repeat(9), "}".repeat(9));
        let wide = format!("a:600:{{{}}}", "i:0;i:0;".repeat(600));
        for text in [
            "",
            "s",
            "s:",
            "s:3:\"ab\";",
            "s:1:\"ab\";",
            "s:-1:\"\";",
            "s:+1:\"a\";",
            "i:;",
            "i:--1;",
            "i:1",
            "i:1;x",
            "a:2:{i:0;i:1;}",
            "a:1:{N;i:1;}",
            "a:99999999999:{}",
            "b:2;",
            "s:18446744073709551615:\"a\";",
            "O:8:\"stdClass\":0:{}",
            "C:1:\"X\":0:{}",
            "R:1;",
            "r:1;",
            "d:0.5;",
            "E:3:\"A:B\";",
            "S:1:\"a\";",
            &deep,
            &wide,
        ] {
            assert_eq!(unserialize(text.as_bytes()), Err(Unreadable), "{text}");
        }
    }

    #[test]
    fn tells_serialised_values_from_bare_secrets() {
        for yes in [
            "s:1:\"a\";",
            "a:0:{}",
            "O:8:\"stdClass\":0:{}",
            "N;",
            "i:5;",
            "s:9:\"cut",
        ] {
            assert!(looks_serialised(yes.as_bytes()), "{yes}");
        }
        for no in ["", "a", "N;x", "s3cr3t~Q", "a:b", "s:x", "i:5;~", "a:12~{"] {
            assert!(!looks_serialised(no.as_bytes()), "{no}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unserialize(&bytes);
            let _ = looks_serialised(&bytes);
        }

        #[test]
        fn never_panics_on_what_is_nearly_right(text in "([sia]:[0-9]{1,3}[:;][\"{]?[a-z]{0,4}[\"}]?;?){0,6}") {
            let _ = unserialize(text.as_bytes());
        }

        #[test]
        fn reads_any_string(content in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = format!("s:{}:\"", content.len()).into_bytes();
            bytes.extend_from_slice(&content);
            bytes.extend_from_slice(b"\";");
            let value = unserialize(&bytes).unwrap();
            prop_assert_eq!(text_of(&bytes, &value), &content[..]);
        }
    }
}
