use super::*;

#[test]
fn every_key_is_in_the_default_file_with_a_comment() {
    let (sections, documented) = reference::parse(DEFAULT);
    for (section, about) in &sections {
        assert!(
            about.ends_with('.'),
            "[{section}] needs a sentence above it"
        );
    }
    for Documented {
        section,
        name,
        meaning,
        ..
    } in &documented
    {
        let key = format!("{section}.{name}");
        assert!(
            meaning.ends_with('.'),
            "{key} needs a comment directly above"
        );
        assert!(keys::rule(&key).is_some(), "{key} has no rule");
    }
    let in_file: Vec<String> = documented
        .iter()
        .map(|key| format!("{}.{}", key.section, key.name))
        .filter(|key| !key.starts_with(keys::CLOUDS))
        .collect();
    let ruled: Vec<&str> = keys::FIXED.iter().map(|(key, _)| *key).collect();
    assert_eq!(in_file, ruled);
}

/// The structs require every field, so a rule without a field, or the reverse, does not load.
#[test]
fn every_key_is_needed_and_no_other_is_known_to_the_structs() {
    let full: toml::Table = DEFAULT.parse().unwrap();
    toml::Value::Table(full.clone())
        .try_into::<Settings>()
        .unwrap();
    for (key, _) in keys::FIXED {
        let (section, name) = key.rsplit_once('.').unwrap();
        let table = |all: &'_ mut toml::Table, change: &dyn Fn(&mut toml::Table)| {
            let mut sections = section.split('.');
            let first = sections.next().unwrap();
            let inner = sections.fold(&mut all[first], |outer, section| &mut outer[section]);
            change(inner.as_table_mut().unwrap());
        };
        let mut less = full.clone();
        table(&mut less, &|table| {
            table.remove(name).unwrap();
        });
        let error = toml::Value::Table(less).try_into::<Settings>().unwrap_err();
        assert!(error.to_string().contains(name), "{key}: {error}");
        let mut more = full.clone();
        table(&mut more, &|table| {
            table.insert(format!("{name}_more"), 1.into());
        });
        assert!(
            toml::Value::Table(more).try_into::<Settings>().is_err(),
            "{key}"
        );
    }
}
