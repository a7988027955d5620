use super::*;
use crate::domain::time_input;

const CERTIFICATE: &str = include_str!("../testdata/cert.pem");
const KEY: &str = include_str!("../testdata/key.pem");
const PASSWORD: &str = "pässword 1";

/// Made with OpenSSL 3: `aes256` is its default, `rc2` that of OpenSSL 1 and older Windows, `3des` that of
/// Windows Server 2016. The first two contain a second certificate.
const AES256: &[u8] = include_bytes!("../testdata/aes256.pfx");
const RC2: &[u8] = include_bytes!("../testdata/rc2.pfx");
const TRIPLE_DES: &[u8] = include_bytes!("../testdata/3des.pfx");
const EMPTY_PASSWORD: &[u8] = include_bytes!("../testdata/empty-password.pfx");
/// RC4, which is not read here.
const RC4: &[u8] = include_bytes!("../testdata/rc4.pfx");
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
        now(),
    )
}

fn now() -> DateTime<Utc> {
    time_input::since("2027-01-01").unwrap()
}

/// A certificate of the key from the first day of one year to that of another.
fn certificate_of(key: &rcgen::KeyPair, from: i32, until: i32) -> String {
    let mut parameters = rcgen::CertificateParams::new(["file.invalid".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    parameters.self_signed(key).unwrap().pem()
}

/// PKCS#12 as BER: the length of the whole is not given, but ended by two zeros.
fn ber(der: &[u8]) -> Vec<u8> {
    [&[0x30, 0x80][..], body_of(der).unwrap(), &[0, 0]].concat()
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
    let trusted = to_pem(
        "TRUSTED CERTIFICATE",
        &[der(CERTIFICATE), vec![0x30, 0]].concat(),
    );
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("key first", both.clone().into(), None),
        (
            "certificate first",
            format!("{CERTIFICATE}{KEY}").into(),
            None,
        ),
        ("byte order mark", format!("\u{feff}{both}").into(), None),
        ("CRLF", both.replace('\n', "\r\n").into(), None),
        ("CR", both.replace('\n', "\r").into(), None),
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
            "label of old",
            both.replace(" CERTIFICATE-", " X509 CERTIFICATE-").into(),
            None,
        ),
        (
            "trusted certificate",
            format!("{KEY}{}", trusted.as_str()).into(),
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
fn a_key_that_is_given_takes_the_place_of_one_that_cannot_be_read() {
    for protected in [KEY_PBES1, KEY_TRADITIONAL] {
        let both = format!("{protected}{CERTIFICATE}");
        let opened = open(both.as_bytes(), Some(KEY.as_bytes()), None);
        assert_is_the_pair("given key", opened);
    }
}

#[test]
fn of_several_pairs_the_one_that_is_valid_now_is_taken() {
    let pairs = [(2001, 2002), (2020, 2040), (2041, 2042)].map(|(from, until)| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate = certificate_of(&key, from, until);
        (key.serialize_pem(), certificate)
    });
    let file: String = pairs.iter().map(|(k, c)| format!("{k}{c}")).collect();
    match open(file.as_bytes(), None, None) {
        Ok(Credential::Certificate {
            certificate_pem, ..
        }) => assert_eq!(certificate_pem.trim(), pairs[1].1.trim()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_read_says_why_and_how_to_convert_it() {
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let ec = rcgen::KeyPair::generate().unwrap();
    let with = |key: &str| format!("{key}{CERTIFICATE}").into_bytes();
    let nothing = "it holds neither a certificate nor a private key";
    let public_key = ec.public_key_pem();
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    let broken = [&AES256[..200], &[0xff; 40], &AES256[240..]].concat();
    let cases: Vec<(Vec<u8>, Option<&str>, &str)> = vec![
        (Vec::new(), None, nothing),
        (b"hello".to_vec(), None, nothing),
        (vec![0xff; 50], None, nothing),
        (b"\x89PNG\r\n\x1a\n\0\0".to_vec(), None, nothing),
        (public_key.clone().into(), None, nothing),
        (der(&public_key), None, nothing),
        (CERTIFICATE.into(), None, "--private-key FILE"),
        (der(CERTIFICATE), None, "--private-key FILE"),
        (KEY.into(), None, "a private key and no certificate"),
        (request.into(), None, "the request for a certificate"),
        (
            format!(
                "{KEY}{}",
                request.replace("CERTIFICATE R", "NEW CERTIFICATE R")
            )
            .into(),
            None,
            "the request for a certificate",
        ),
        (der(KEY), None, "a private key and no certificate"),
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
            AES256.into(),
            Some("pässword 1 "),
            "the password does not open it; the password begins or ends with a blank",
        ),
        (
            TRIPLE_DES.into(),
            Some("wrong"),
            "the password does not open it",
        ),
        (
            with(KEY_PBES1),
            Some(PASSWORD),
            "give x.pfx.key with --private-key, after making it with: openssl pkey \
             -provider legacy -provider default -in x.pfx -out x.pfx.key",
        ),
        (
            with(KEY_TRADITIONAL),
            Some(PASSWORD),
            "openssl pkey -provider legacy -provider default -in x.pfx -out x.pfx.key",
        ),
        (
            utf16(&format!("{KEY_TRADITIONAL}{CERTIFICATE}")),
            Some(PASSWORD),
            r"tr -cd '\11-\176' < x.pfx | openssl pkey -provider legacy -provider default -out x.pfx.key",
        ),
        (
            RC4.into(),
            Some(PASSWORD),
            "openssl pkcs12 -legacy -nodes -in x.pfx -out x.pfx.pem",
        ),
        (
            STANDARD.encode(RC4).into(),
            Some(PASSWORD),
            "tr -cd 'A-Za-z0-9+/=' < x.pfx | base64 -d | openssl pkcs12 -legacy -nodes -out x.pfx.pem",
        ),
        (
            ber(AES256),
            Some(PASSWORD),
            "openssl pkcs12 -legacy -nodes -in x.pfx -out x.pfx.pem",
        ),
        (
            STANDARD.encode(ber(AES256)).into(),
            Some(PASSWORD),
            "base64 -d | openssl pkcs12 -legacy -nodes -out x.pfx.pem",
        ),
        (
            ber(&der(PKCS7_PEM)),
            None,
            "openssl pkcs7 -inform DER -print_certs -in x.pfx -out x.pfx.pem",
        ),
        (
            b"\x1e\xf1\xb5\xb0\0\0\0\0".to_vec(),
            None,
            "openssl pkey -provider legacy -provider default -in x.pfx -out x.pfx.key",
        ),
        (broken, Some(PASSWORD), ""),
        (
            AES256[..AES256.len() - 7].into(),
            Some(PASSWORD),
            "it is damaged: it has ",
        ),
        (
            [der(CERTIFICATE), vec![b'\n']].concat(),
            None,
            "it is damaged: it has ",
        ),
        (
            STANDARD.encode(AES256)[..101].into(),
            Some(PASSWORD),
            "it is damaged: its base64 is cut off",
        ),
        (
            CERTIFICATE.replacen("\nMII", "\nMI!", 1).into(),
            None,
            "damaged (the block CERTIFICATE: character 3 of its base64 is wrong)",
        ),
        (
            KEY.replacen("\nMII", "\nMI!", 1).into(),
            None,
            "damaged (the block PRIVATE KEY: character 3 of its base64 is wrong)",
        ),
        (
            with(
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
            ),
            Some(PASSWORD),
            "damaged (the block ENCRYPTED PRIVATE KEY: its content is not what it says)",
        ),
        (
            PKCS7_PEM.into(),
            None,
            "never holds a private key; export the certificate with its private key as .pfx, or give x.pfx.pem with \
             --certificate and the key's file with --private-key, after making it with: \
             openssl pkcs7 -print_certs -in x.pfx -out x.pfx.pem",
        ),
        (
            PKCS7_PEM.replace(" PKCS7-", " PKCS #7 SIGNED DATA-").into(),
            None,
            "with: openssl pkcs7 -print_certs -in x.pfx -out x.pfx.pem",
        ),
        (
            PKCS7_PEM.replace(" PKCS7-", " CMS-").into(),
            None,
            "with: sed 's/ CMS-----/ PKCS7-----/' < x.pfx | openssl pkcs7 -print_certs -out x.pfx.pem",
        ),
        (
            format!("{KEY}{}", PKCS7_PEM.replace(" PKCS7-", " CERTIFICATE-")).into(),
            None,
            "with: sed 's/ CERTIFICATE-----/ PKCS7-----/' < x.pfx | openssl pkcs7 -print_certs",
        ),
        (
            utf16(&PKCS7_PEM.replace(" PKCS7-", " CMS-")),
            None,
            r"tr -cd '\11-\176' < x.pfx | sed 's/ CMS-----/ PKCS7-----/' | openssl pkcs7 -print_certs",
        ),
        (
            der(PKCS7_PEM),
            None,
            "openssl pkcs7 -inform DER -print_certs -in x.pfx -out x.pfx.pem",
        ),
        (
            STANDARD.encode(der(PKCS7_PEM)).into(),
            None,
            "base64 -d | openssl pkcs7 -inform DER -print_certs -out x.pfx.pem",
        ),
        (
            b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(),
            None,
            "keytool -importkeystore -srckeystore x.pfx",
        ),
        (
            with("-----BEGIN OPENSSH PRIVATE KEY-----\nAA==\n-----END OPENSSH PRIVATE KEY-----\n"),
            None,
            "ssh-keygen -p -m PKCS8 -N '' -f x.pfx.key",
        ),
        (KEY[..KEY.len() / 2].into(), None, "damaged"),
        ([with(KEY), vec![0xff]].concat(), None, "is not UTF-8"),
    ];
    for (index, (bytes, password, words)) in cases.iter().enumerate() {
        let error = open(bytes, None, *password).unwrap_err().to_string();
        assert!(error.contains(words), "{index}, {words}: {error}");
        assert!(!error.contains("wrong\""), "{error}");
    }
    for (key, words) in [
        (
            KEY_PBES1.as_bytes().to_vec(),
            "openssl pkey -provider legacy -provider default -in 'a key.pem' -out 'a key.pem'.key",
        ),
        (der(CERTIFICATE), "--private-key: it holds no private key"),
        (
            public_key.into_bytes(),
            "--private-key: it holds no private key",
        ),
        (der(KEY_AES256), "--private-key: it is protected"),
    ] {
        let error = open(CERTIFICATE.as_bytes(), Some(&key), None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let error = open(KEY.as_bytes(), Some(KEY.as_bytes()), None).unwrap_err();
    assert_eq!(error, FileError::KeyAlone);
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
