use super::*;

#[test]
fn a_secret_put_where_its_file_belongs_is_not_quoted() {
    let url = format!("postgres://u:{CANARY}@h/db");
    let error = errors(&[("DATABASE_URL_FILE", &url)]);
    assert_holds(&error, "must be the path of a file with database.url");
    assert!(!error.contains(CANARY), "{error}");
}

#[test]
fn a_file_that_holds_no_value_is_refused_with_its_path() {
    for (name, key) in [
        ("DATABASE_URL_FILE", "database.url"),
        ("REDIS_URL_FILE", "redis.url"),
        ("VERIFYD__DATABASE__LISTEN_URL_FILE", "database.listen_url"),
        ("VERIFYD__OUTBOUND__PROXY_FILE", "outbound.proxy"),
        (
            "VERIFYD__CREDENTIALS__LARAVEL_KEYS_FILE",
            "credentials.laravel_keys",
        ),
    ] {
        for content in ["", "\n", " \t\r\n\n", "\u{feff}"] {
            let file = file(content);
            assert_eq!(
                errors(&[(name, path(&file))]),
                format!(
                    "environment variable {name}: must be the path of a file with {key}, or empty; \
                     {:?} holds no value",
                    path(&file)
                ),
                "{content:?}"
            );
        }
    }
    let comments = file("# base64:AA==\n");
    let error = errors(&[("VERIFYD__CREDENTIALS__LARAVEL_KEYS_FILE", path(&comments))]);
    assert_holds(&error, "holds no value");
}

#[test]
fn no_secret_is_printed_or_debugged() {
    let all = sources(&[
        (
            "DATABASE_URL",
            &format!("postgres://u:{CANARY}@h/db?password={CANARY}"),
        ),
        (
            "REDIS_URL",
            &format!("rediss+sentinel://:{CANARY}@h/m?sentinel_password={CANARY}"),
        ),
        (
            "VERIFYD__CREDENTIALS__KEYS",
            &format!("k1:{CANARY},{CANARY}"),
        ),
        (
            "VERIFYD__CREDENTIALS__LARAVEL_KEYS",
            &format!("base64:{CANARY}"),
        ),
    ]);
    let before = format!("{all:?}");
    let settings = Settings::load(all).unwrap();
    let printed = settings.print();
    for shown in [&before, &printed, &format!("{settings:?}")] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
    assert_holds(&printed, "url = \"postgres://u:***@h/db?password=***\"");
    assert_holds(
        &printed,
        "url = \"rediss+sentinel://:***@h/m?sentinel_password=***\"",
    );
    assert_holds(&printed, "keys = [\"***\", \"***\"]");
    let flags = Overrides::default().with("--database-url", "database.url", CANARY);
    assert!(!format!("{flags:?}").contains(CANARY));
}

#[test]
fn no_error_quotes_an_address_under_a_key_that_takes_none() {
    let urls = ["postgres://u:", "u:"].map(|start| format!("{start}{CANARY}@h/d"));
    let mut refused = 0;
    for (key, _) in keys::FIXED {
        let name = format!("VERIFYD__{}", key.replace('.', "__").to_uppercase());
        let (section, last) = key.rsplit_once('.').unwrap();
        for url in &urls {
            let toml = format!("[{section}]\n{last} = \"{url}\"");
            for loaded in [load(&[(&name, url)]), with_file(&toml, &[])] {
                if let Err(error) = loaded {
                    refused += 1;
                    assert!(!error.to_string().contains(CANARY), "{error}");
                }
            }
        }
    }
    assert!(refused > keys::FIXED.len(), "only {refused}");
}

#[test]
fn no_error_quotes_a_secret() {
    for (key, _) in keys::FIXED.iter().filter(|(_, rule)| rule.is_secret()) {
        let name = format!("VERIFYD__{}", key.replace('.', "__").to_uppercase());
        for value in [
            CANARY.to_owned(),
            format!("http://{CANARY}"),
            format!("\0{CANARY}"),
        ] {
            if let Err(error) = load(&[(&name, &value)]) {
                assert!(!error.to_string().contains(CANARY), "{error}");
            }
        }
        let (section, last) = key.split_once('.').unwrap();
        for value in [
            format!("{{ x = \"{CANARY}\" }}"),
            format!("[[\"{CANARY}\"]]"),
            format!("\"{CANARY}\""),
        ] {
            let error = with_file(&format!("[{section}]\n{last} = {value}"), &[]).unwrap_err();
            assert!(!error.to_string().contains(CANARY), "{error}");
        }
    }
}
