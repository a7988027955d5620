//! W3C Trace Context: the header `traceparent`.

use std::fmt;

/// The span that caused something here, as another program names it. Whoever writes rows or hints may invent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// Whether that program has recorded its span.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`, in lower case. Later versions may have more parts, which are left out.
    /// `None`: it is none, or one of its ids is zero.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version]: [u8; 1] = bytes(parts.next()?)?;
        let trace_id: [u8; 16] = bytes(parts.next()?)?;
        let span_id: [u8; 8] = bytes(parts.next()?)?;
        let [flags]: [u8; 1] = bytes(parts.next()?)?;
        let is_whole = version != 0 || parts.next().is_none();
        let is_valid = is_whole
            && version != 0xff
            && trace_id.iter().any(|byte| *byte != 0)
            && span_id.iter().any(|byte| *byte != 0);
        is_valid.then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }

    /// Returns the id of the trace as people search for it.
    pub fn trace(&self) -> String {
        hex::encode(self.trace_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (hex::encode(self.trace_id), hex::encode(self.span_id));
        write!(f, "00-{trace}-{span}-{:02x}", u8::from(self.is_sampled))
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_written_as_it_was_read() {
        let read = TraceParent::parse(SAMPLED).unwrap();
        assert_eq!(read.to_string(), SAMPLED);
        assert_eq!(read.trace(), "0af7651916cd43dd8448eb211c80319c");
        assert!(read.is_sampled);
        let other = TraceParent::parse(&SAMPLED.replace("-01", "-00")).unwrap();
        assert!(!other.is_sampled);
    }

    #[test]
    fn of_a_later_version_the_parts_that_are_known_count() {
        let read = TraceParent::parse(SAMPLED);
        for more in ["", "-", "-x", "-00-y"] {
            let later = format!("{}{more}", SAMPLED.replacen("00", "01", 1));
            assert_eq!(TraceParent::parse(&later), read, "{later}");
        }
        let flags = SAMPLED.replacen("00", "fe", 1).replace("-01", "-03-x");
        assert_eq!(TraceParent::parse(&flags), read);
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        for text in [
            "",
            "00",
            "00---",
            &SAMPLED.to_uppercase(),
            &format!("{SAMPLED}-00"),
            &format!("{SAMPLED}-"),
            &format!("{SAMPLED}\n"),
            &format!(" {SAMPLED}"),
            &SAMPLED.replacen("00", "ff", 1),
            &format!("{}-x", SAMPLED.replacen("00", "ff", 1)),
            &format!("{}x", SAMPLED.replacen("00", "01", 1)),
            &SAMPLED.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &SAMPLED.replace("b7ad6b7169203331", &"0".repeat(16)),
            &SAMPLED.replace("b7ad", "b7aü"),
            &SAMPLED.replace("0af7", "0ag7"),
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }
}
