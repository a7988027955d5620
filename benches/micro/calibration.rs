//! What the medians are divided by, so that those of two machines can be compared.

use super::Suite;
use std::collections::BTreeMap;
use std::hint::black_box;

/// Name of the benchmark that the others are divided by.
pub const NAME: &str = "calibration";

/// Allocates, formats, compares, follows pointers and reads bytes: the kind of work that reports are
/// made of, with nothing but the standard library, so that only the toolchain changes it. A digest
/// would not do: some processors have instructions for it, others do not.
pub fn measure(suite: &mut Suite) {
    suite.measure(NAME, |b| b.iter(|| work(black_box(400))));
}

fn work(entries: u64) -> u64 {
    let map: BTreeMap<String, String> = (0..entries)
        .map(|i| {
            // Spread over all keys, so that they do not arrive in order.
            let key = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (format!("{key:016x}"), format!("value {i} of {entries}"))
        })
        .collect();
    map.iter()
        .flat_map(|(key, value)| key.bytes().chain(value.bytes()))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
}
