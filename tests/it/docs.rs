//! The documents say what the code does.

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = include_str!("../../README.md");
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "none".to_owned(),
        serde_json::Value::String(text) if text.is_empty() => "empty".to_owned(),
        serde_json::Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    for setting in zombi::config::Config::settings() {
        let row = format!("| `{}` | {} |", setting.key, shown(&setting.default));
        assert!(readme.contains(&row), "README.md has no row {row}");
    }
    let rows = readme.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, zombi::config::Config::settings().len(), "README.md lists a setting that is gone");
}
