//! Texts of any size, by how they can be compressed: always the same ones, of letters, digits, `-` and `_`.

/// A text of so many bytes.
pub type Text = fn(usize) -> String;

/// Every kind, with its name.
pub const TEXTS: [(&str, Text); 3] = [
    ("noise", noise),
    ("half noise", half_noise),
    ("one sign", one_sign),
];

/// Nothing compresses it.
pub fn noise(bytes: usize) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(SIGNS[(state >> 58) as usize])
    };
    (0..bytes).map(next).collect()
}

/// About half of it can be compressed.
pub fn half_noise(bytes: usize) -> String {
    let noise = noise(bytes);
    let signs = noise.chars().enumerate();
    signs
        .map(|(n, sign)| if n / 64 % 2 == 0 { sign } else { 'x' })
        .collect()
}

/// As small as it gets.
pub fn one_sign(bytes: usize) -> String {
    "x".repeat(bytes)
}
