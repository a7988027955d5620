//! Secrets, certificates, dates and addresses as people have them.

use super::{Desk, assert_holds, finish, finish_with, json, stderr};
use serde_json::Value;
use std::process::Output;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

const PFX: &[u8] = include_bytes!("../../../src/credentials/testdata/aes256.pfx");
const CERTIFICATE: &str = include_str!("../../../src/credentials/testdata/cert.pem");
const KEY: &str = include_str!("../../../src/credentials/testdata/key.pem");
const PASSWORD: &str = "pässword 1";

impl Desk {
    /// Replaces the credential of connection 1, with a file of these bytes in place of `FILE`.
    fn set_credential(&self, file: &[u8], line: &str, input: &[u8]) -> Output {
        let path = self.folder.path().join("certificate");
        std::fs::write(&path, file).unwrap();
        let line = line.replace("FILE", path.to_str().unwrap());
        let command = self.command(&format!("connections set-credential 1 --json {line}"));
        finish_with(command, input)
    }
}

fn expires_at(output: &Output) -> Value {
    json(output)["expires_at"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sent_as_it_is_however_it_came() {
    let desk = Desk::new().await;
    let _serving = desk.serve();
    let id = desk.add(Scenario::Healthy, "", "");
    assert_eq!(id, "1");
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(format!("{SIMULATED_SECRET}\r\n").encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for input in [
        format!("\u{feff}{SIMULATED_SECRET}\r\n").into_bytes(),
        format!("{SIMULATED_SECRET}\n").into_bytes(),
        utf16,
    ] {
        let output = desk.set_credential(b"", "--secret-stdin", &input);
        assert!(output.status.success(), "{}", stderr(&output));
        desk.ends("enqueue --connection 1 --wait 300", 0);
    }
    for (input, words) in [
        (&b""[..], "standard input: it is empty"),
        (b"\n", "standard input: it is empty"),
        (
            "s3cr3t\u{a0}\n".as_bytes(),
            "byte 7 is U+00A0 NO-BREAK SPACE",
        ),
        (b"s3cr3t\n\n", "byte 7 is U+000A LINE FEED"),
        (b"s3cr3t ", "byte 7 is a space"),
        (b"s3cr3t\xff", "byte 7 is not UTF-8"),
        (&[b'x'; 70_000], "longer than 64 KiB"),
    ] {
        let output = desk.set_credential(b"", "--secret-stdin", input);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(words) && said.contains("--secret-stdin"),
            "{words}: {said}"
        );
        assert!(!said.contains("s3cr3t"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_in_every_form_and_dates_are_told() {
    let desk = Desk::new().await;
    desk.add(Scenario::Healthy, "", "");
    let key = desk.folder.path().join("key.pem");
    std::fs::write(&key, KEY).unwrap();
    let password = desk.folder.path().join("password");
    std::fs::write(&password, format!("\u{feff}{PASSWORD}\r\n")).unwrap();
    let one_file = "--certificate FILE";
    let from_file = format!(
        "{one_file} --certificate-password-file {}",
        password.display()
    );
    let first = expires_at(&desk.set_credential(PFX, &from_file, b""));
    assert!(first.is_string(), "the certificate's own date is recorded");
    let from_stdin = "--certificate FILE --certificate-password-stdin";
    let output = desk.set_credential(PFX, from_stdin, PASSWORD.as_bytes());
    assert_eq!(expires_at(&output), first);
    let two_files = format!("{one_file} --private-key {}", key.display());
    let output = desk.set_credential(CERTIFICATE.as_bytes(), &two_files, b"");
    assert_eq!(expires_at(&output), first);

    for (file, words) in [
        (PFX, "--certificate-password-file FILE"),
        (CERTIFICATE.as_bytes(), "--private-key FILE"),
        (b"\xfe\xed\xfe\xed\0\0\0\x02", "keytool -importkeystore"),
        (b"nothing", "holds neither a certificate nor a private key"),
    ] {
        let output = desk.set_credential(file, one_file, b"");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    let output = desk.set_credential(PFX, from_stdin, b"wrong\n");
    assert_holds(&stderr(&output), "the password does not open it");

    // The date alone is recorded for the credential that is stored, unless its certificate ends before.
    let output = desk.set_credential(b"", "--expires-at 2100-01-01", b"");
    assert_eq!(expires_at(&output), first);
    assert_holds(&stderr(&output), "The certificate ends before 2100-01-01");
    let shown = desk.json("connections show 1 --json");
    assert_eq!(shown["credential"]["expires_at"], first);
    let output = desk.set_credential(b"", "--expires-at 2001-01-01", b"");
    assert_eq!(expires_at(&output), "2001-01-01T23:59:59Z");
    let words =
        "The date of --expires-at, 2001-01-01 23:59 UTC, is in the past: the certificate counts";
    assert_holds(&stderr(&output), words);
    let output = desk.set_credential(b"", "--expires-at 2031-05-06", b"");
    assert_eq!(expires_at(&output), "2031-05-06T23:59:59Z");
    let listed = desk.json("connections list --sort expiry --json");
    let facts = &listed[0];
    assert_eq!(facts["credential_expires_at"], "2031-05-06T23:59:59Z");
    assert_eq!(facts["credential_expiry_source"], "recorded");
    let cursor = listed[0]["cursor"].as_str().unwrap();
    desk.ends(
        &format!("connections list --sort expiry --after {cursor}"),
        0,
    );
    // Of an expiry before 1970.
    let negative = "connections list --sort expiry --after -62135596800000000_57 --json";
    assert_eq!(desk.json(negative)[0]["cursor"], cursor);
    let output = desk.ends(&format!("connections list --after {cursor}"), 1);
    assert_holds(&stderr(&output), "--after");

    // Accepted, as it may be rotated in ahead of time, and told.
    for (from, until, words) in [
        (3000, 3001, "not valid yet: it is valid from 3000-01-01"),
        (2001, 2002, "has expired: it was valid until 2002-01-01"),
    ] {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut parameters = rcgen::CertificateParams::new(["cli.invalid".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        let pem = format!("\u{feff}{}{}", certificate.pem(), key.serialize_pem());
        let output = desk.set_credential(pem.as_bytes(), one_file, b"");
        assert!(output.status.success(), "{}", stderr(&output));
        assert_holds(&stderr(&output), words);
    }

    let dated = |written: &str| {
        let mut command = desk.command("connections set-credential 1 --json --secret-stdin");
        command.args(["--expires-at", written]);
        finish(command, "s3cr3t")
    };
    for (written, at) in [
        ("2126-12-31", "2126-12-31T23:59:59Z"),
        ("2126-12-31 14:00", "2126-12-31T14:00:00Z"),
        ("2126-12-31T14:00:00+01:00", "2126-12-31T13:00:00Z"),
    ] {
        let output = dated(written);
        assert_eq!(expires_at(&output), at, "{written}");
    }
    for written in ["infinity", "31.12.2126", "10000-01-01", "2126-02-30"] {
        let output = dated(written);
        assert_eq!(output.status.code(), Some(2), "{written}");
        assert_holds(&stderr(&output), "allowed is 2026-12-31");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_or_a_server_that_cannot_be_used_is_told_by_its_cause() {
    let desk = Desk::new().await;
    let id = desk.add(Scenario::Healthy, "", "");
    let with = |name: &str, value: &str, line: &str| {
        let mut command = desk.command(line);
        command.env(name, value);
        finish(command, "")
    };
    let output = with("DATABASE_URL", "postgres://u:p4ss#x@h/db", "runs list");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_holds(&said, "percent-encode # as %23 in the password");
    assert!(!said.contains("p4ss"), "{said}");

    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let redis = format!("redis://:p4ss@127.0.0.1:{port}");
    let output = with("REDIS_URL", &redis, "doctor --json");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let parts = told["parts"].as_array().unwrap();
    let queue = parts.iter().find(|part| part["part"] == "queue").unwrap();
    assert!(
        queue["found"]
            .as_str()
            .unwrap()
            .contains("no server listens there"),
        "{queue}"
    );
    let output = with("REDIS_URL", &redis, &format!("enqueue --connection {id}"));
    assert!(output.status.success());
    assert_holds(&stderr(&output), "no server listens there");
    assert!(!stderr(&output).contains("p4ss"));
}
