use super::*;

fn any_name() -> impl Strategy<Value = String> {
    let known = keys::FIXED
        .iter()
        .map(|(key, _)| format!("VERIFYD__{}", key.replace('.', "__").to_uppercase()))
        .chain(
            [
                "DATABASE_URL",
                "REDIS_URL",
                "DATABASE_URL_FILE",
                "VERIFYD_CONFIG",
            ]
            .map(Into::into),
        )
        .collect::<Vec<_>>();
    prop_oneof![
        4 => proptest::sample::select(known.clone()),
        1 => proptest::sample::select(known).prop_map(|name| format!("{name}_FILE")),
        2 => "VERIFYD__[A-Z_]{0,12}",
        1 => "VERIFYD__MICROSOFT__CLOUDS__[A-Z0-9_]{0,6}__(LOGIN|GRAPH|X)",
        1 => "VERIFYD__.{0,12}",
        1 => ".{0,12}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        "[0-9]{1,3}(ms|s|m|h|d|)",
        "(postgres|redis|sqlite|https|http)://.{0,20}",
        "/.{0,10}",
        ".{0,30}",
    ]
}

proptest! {
    #[test]
    fn no_environment_makes_it_panic(
        environment in proptest::collection::btree_map(any_name(), any_value(), 0..6),
    ) {
        let environment: BTreeMap<String, String> = environment;
        let loaded = Settings::load(Sources { environment, ..Sources::default() });
        match loaded {
            Ok(settings) => {
                // What loads prints as TOML.
                prop_assert!(settings.print().parse::<toml::Table>().is_ok());
            }
            Err(error) => {
                prop_assert!(!error.problems.is_empty());
                prop_assert!(!error.to_string().contains("defect of verifyd"), "{}", error);
            }
        }
    }

    #[test]
    fn no_file_makes_it_panic(key in "[a-z_.]{1,12}", value in any_value(), raw in ".{0,60}") {
        for text in [raw, format!("{key} = {}", serde_json::Value::from(value))] {
            let _ = with_file(&text, &[]);
        }
    }
}
