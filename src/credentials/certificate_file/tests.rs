use super::*;

const CERTIFICATE: &str = include_str!("../testdata/cert.pem");
const KEY: &str = include_str!("../testdata/key.pem");
const PASSWORD: &str = "pässword 1";

/// Made with OpenSSL 3: `aes256` is its default, `rc2` that of OpenSSL 1 and older Windows, `3des` that of
/// Windows Server 2016. The first two contain a second certificate.
const AES256: &[u8] = include_bytes!("../testdata/aes256.pfx");
const RC2: &[u8] = include_bytes!("../testdata/rc2.pfx");
const TRIPLE_DES: &[u8] = include_bytes!("../testdata/3des.pfx");
const EMPTY_PASSWORD: &[u8] = include_bytes!("../testdata/empty-password.pfx");
const NOT_ENCRYPTED: &[u8] = include_bytes!("../testdata/none.pfx");
const KEY_AES256: &str = include_str!("../testdata/key-aes256.pem");
const KEY_TRIPLE_DES: &str = include_str!("../testdata/key-3des.pem");
const KEY_PBES1: &str = include_str!("../testdata/key-pbes1.pem");
const KEY_TRADITIONAL: &str = include_str!("../testdata/key-traditional.pem");
const PKCS7_PEM: &str = include_str!("../testdata/cert.p7b");

fn der(pem: &str) -> Vec<u8> {
    let base64: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    STANDARD.decode(base64).unwrap()
}

fn open(bytes: &[u8], key: Option<&[u8]>, password: Option<&str>) -> Result<Credential, FileError> {
    let password = password.map(SecretString::from);
    let key = key.map(|bytes| NamedFile {
        name: "a key.pem",
        bytes,
    });
    credential_from_files(
        NamedFile {
            name: "x.pfx",
            bytes,
        },
        key,
        password.as_ref(),
    )
}

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

fn assert_is_the_pair(case: &str, opened: Result<Credential, FileError>) {
    let Ok(Credential::Certificate {
        private_key_pem,
        certificate_pem,
    }) = opened
    else {
        panic!("{case}: {opened:?}");
    };
    assert_eq!(certificate_pem.trim(), CERTIFICATE.trim(), "{case}");
    assert_eq!(der(private_key_pem.expose_secret()), der(KEY), "{case}");
}

#[test]
fn every_form_of_one_file_gives_the_same_pair() {
    let both = format!("{KEY}{CERTIFICATE}");
    let protected = format!("{CERTIFICATE}{KEY_AES256}");
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("key first", both.clone().into(), None),
        (
            "certificate first",
            format!("{CERTIFICATE}{KEY}").into(),
            None,
        ),
        ("byte order mark", format!("\u{feff}{both}").into(), None),
        ("CRLF", both.replace('\n', "\r\n").into(), None),
        (
            "byte order mark and CRLF",
            format!("\u{feff}{}", both.replace('\n', "\r\n")).into(),
            None,
        ),
        ("UTF-16", utf16(&both.replace('\n', "\r\n")), None),
        (
            "bag attributes",
            format!("Bag Attributes\n    localKeyID: 01\nsubject=CN = x\n{both}").into(),
            None,
        ),
        (
            "protected key, AES",
            protected.clone().into(),
            Some(PASSWORD),
        ),
        (
            "protected key, 3DES",
            format!("{KEY_TRIPLE_DES}{CERTIFICATE}").into(),
            Some(PASSWORD),
        ),
        ("password that is not needed", both.into(), Some("x")),
        ("PKCS#12, AES", AES256.into(), Some(PASSWORD)),
        ("PKCS#12, RC2", RC2.into(), Some(PASSWORD)),
        ("PKCS#12, 3DES", TRIPLE_DES.into(), Some(PASSWORD)),
        ("PKCS#12, empty password", EMPTY_PASSWORD.into(), None),
        ("PKCS#12, not encrypted", NOT_ENCRYPTED.into(), None),
        (
            "PKCS#12 in base64",
            STANDARD.encode(AES256).into(),
            Some(PASSWORD),
        ),
        (
            "PKCS#12 in base64 with a line end",
            format!("\u{feff}{}\r\n", STANDARD.encode(RC2)).into(),
            Some(PASSWORD),
        ),
    ];
    for (case, bytes, password) in cases {
        assert_is_the_pair(case, open(&bytes, None, password));
    }
}

#[test]
fn certificate_and_key_may_be_two_files_each_in_its_own_form() {
    let certificates = [
        CERTIFICATE.as_bytes().to_vec(),
        der(CERTIFICATE),
        STANDARD.encode(der(CERTIFICATE)).into(),
    ];
    let pkcs1 = aws_lc_rs::rsa::KeyPair::from_pkcs8(&der(KEY)).is_ok();
    assert!(pkcs1);
    let keys: [(Vec<u8>, Option<&str>); 5] = [
        (KEY.into(), None),
        (der(KEY), None),
        (der(KEY_AES256), Some(PASSWORD)),
        (KEY_TRIPLE_DES.into(), Some(PASSWORD)),
        (AES256.into(), Some(PASSWORD)),
    ];
    for (index, certificate) in certificates.iter().enumerate() {
        for (other, (key, password)) in keys.iter().enumerate() {
            let opened = open(certificate, Some(key), *password);
            assert_is_the_pair(&format!("certificate {index}, key {other}"), opened);
        }
    }
}

#[test]
fn what_cannot_be_read_says_why_and_how_to_convert_it() {
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let ec = rcgen::KeyPair::generate().unwrap();
    let with = |key: &str| format!("{key}{CERTIFICATE}").into_bytes();
    let broken = [&AES256[..200], &[0xff; 40], &AES256[240..]].concat();
    let cases: Vec<(Vec<u8>, Option<&str>, &str)> = vec![
        (Vec::new(), None, "neither PEM, nor DER"),
        (b"hello".to_vec(), None, "neither PEM, nor DER"),
        (vec![0xff; 50], None, "neither PEM, nor DER"),
        (
            b"\x89PNG\r\n\x1a\n\0\0".to_vec(),
            None,
            "neither PEM, nor DER",
        ),
        (CERTIFICATE.into(), None, "--private-key FILE"),
        (der(CERTIFICATE), None, "--private-key FILE"),
        (KEY.into(), None, "holds no certificate"),
        (der(KEY), None, "holds no certificate"),
        (with(&other.serialize_pem()), None, "public keys differ"),
        (with(&ec.serialize_pem()), None, "must be an RSA key"),
        (with(KEY_AES256), None, "--certificate-password-file FILE"),
        (
            with(KEY_AES256),
            Some("wrong"),
            "the password does not open it",
        ),
        (AES256.into(), None, "--certificate-password-stdin"),
        (RC2.into(), None, "--certificate-password-stdin"),
        (
            AES256.into(),
            Some("wrong"),
            "the password does not open it",
        ),
        (RC2.into(), Some("wrong"), "the password does not open it"),
        (
            TRIPLE_DES.into(),
            Some("wrong"),
            "the password does not open it",
        ),
        (
            with(KEY_PBES1),
            Some(PASSWORD),
            "(openssl x509 -in x.pfx; openssl pkey -in x.pfx) > x.pfx.plain.pem",
        ),
        (
            with(KEY_TRADITIONAL),
            Some(PASSWORD),
            "openssl pkey -in x.pfx",
        ),
        (broken, Some(PASSWORD), ""),
        (
            AES256[..AES256.len() - 7].into(),
            Some(PASSWORD),
            "neither PEM, nor DER",
        ),
        (PKCS7_PEM.into(), None, "never holds a private key"),
        (der(PKCS7_PEM), None, "never holds a private key"),
        (
            b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(),
            None,
            "keytool -importkeystore -srckeystore x.pfx",
        ),
        (
            with("-----BEGIN OPENSSH PRIVATE KEY-----\nAA==\n-----END OPENSSH PRIVATE KEY-----\n"),
            None,
            "ssh-keygen -p -m PKCS8 -f x.pfx",
        ),
        (KEY[..KEY.len() / 2].into(), None, "damaged"),
        ([with(KEY), vec![0xff]].concat(), None, "is not UTF-8"),
    ];
    for (index, (bytes, password, words)) in cases.iter().enumerate() {
        let error = open(bytes, None, *password).unwrap_err().to_string();
        assert!(error.contains(words), "{index}, {words}: {error}");
        assert!(!error.contains("wrong\""), "{error}");
    }
    let error = open(
        CERTIFICATE.as_bytes(),
        Some(KEY_PBES1.as_bytes()),
        Some(PASSWORD),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("openssl pkey -in 'a key.pem'"), "{error}");
}

#[test]
fn damaged_files_do_not_panic() {
    for file in [
        AES256,
        RC2,
        NOT_ENCRYPTED,
        &der(CERTIFICATE),
        &der(KEY_AES256),
    ] {
        for at in (0..file.len()).step_by(if file.len() > 2000 { 41 } else { 7 }) {
            let mut bytes = file.to_vec();
            bytes[at] ^= 0x55;
            // A changed count of rounds would only take long.
            if bytes.windows(2).any(|w| w == [0x02, 0x04]) {
                continue;
            }
            let _ = open(&bytes[..at], None, Some(PASSWORD));
        }
    }
}
