//! The body of an answer, and its conversions.

use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroize;

/// A received body, within the limit. `Debug` shows nothing of it.
pub(in super::super) struct Body {
    bytes: Vec<u8>,
    /// Whether it is overwritten when it is dropped, as it may contain an access token.
    secret: bool,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("bytes", &self.bytes.len())
            .field("secret", &self.secret)
            .finish()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.secret {
            self.bytes.zeroize();
        }
    }
}

impl Body {
    /// Creates an empty body with capacity for `bytes`: a body that grows leaves copies in memory.
    pub(super) fn with_capacity(bytes: usize, secret: bool) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            secret,
        }
    }

    /// Adds what came next; false, and nothing is added, when it would be more than `limit`.
    pub(super) fn add(&mut self, chunk: &[u8], limit: usize) -> bool {
        let fits = self.bytes.len() + chunk.len() <= limit;
        if fits {
            self.make_room(chunk.len(), limit);
            self.bytes.extend_from_slice(chunk);
        }
        fits
    }

    /// A vector that grows by itself leaves its old content in memory.
    fn make_room(&mut self, more: usize, limit: usize) {
        let needed = self.bytes.len() + more;
        if !self.secret || needed <= self.bytes.capacity() {
            return;
        }
        let capacity = (2 * self.bytes.capacity()).min(limit).max(needed);
        let mut larger = Vec::with_capacity(capacity);
        larger.extend_from_slice(&self.bytes);
        std::mem::replace(&mut self.bytes, larger).zeroize();
    }

    fn text(&self) -> &[u8] {
        self.bytes
            .strip_prefix(b"\xEF\xBB\xBF")
            .unwrap_or(&self.bytes)
    }

    /// As it was received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 over all of it.
    pub fn digest(&self) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.bytes);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }

    /// Parses the whole body; `None` when it is not JSON. The depth is bounded by the parser (128 levels),
    /// the length by the body's limit.
    pub fn tree(&self) -> Option<Value> {
        serde_json::from_slice(self.text()).ok()
    }

    /// Parses an object as `T`; `None` when it is no object, or not one of `T`. Members that `T` does not
    /// name are skipped.
    pub fn object<T: DeserializeOwned>(&self) -> Option<T> {
        let text = self.text().trim_ascii_start();
        // A list would do for a struct, too.
        text.starts_with(b"{")
            .then(|| serde_json::from_slice(text).ok())
            .flatten()
    }
}

#[cfg(test)]
impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().to_vec(),
            secret: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(Body::from(deep.as_str()).tree(), None);
        assert_eq!(Body::from("\u{FEFF}{}").tree(), Some(json!({})));
    }

    #[test]
    fn more_than_the_limit_is_not_taken() {
        let mut body = Body::with_capacity(4, true);
        assert!(body.add(b"ab", 3));
        assert!(!body.add(b"cd", 3));
        assert!(body.add(b"c", 3));
        assert_eq!(body.text(), b"abc");
        assert!(!format!("{body:?}").contains("abc"));
    }

    /// The body grows by `make_room`, which overwrites the old content, and never by the vector itself.
    #[test]
    fn a_secret_that_grows_is_moved_within_its_room() {
        let (text, limit) = ("abcdefghi".repeat(100), 1000);
        let mut body = Body::with_capacity(0, true);
        for chunk in text.as_bytes().chunks(7) {
            body.make_room(chunk.len(), limit);
            let room = (body.bytes.as_ptr(), body.bytes.capacity());
            assert!(body.add(chunk, limit));
            assert_eq!(room, (body.bytes.as_ptr(), body.bytes.capacity()));
            assert!(body.bytes.capacity() <= limit);
        }
        assert_eq!(body.text(), text.as_bytes());
    }
}
