//! The documents say what the code does.

#[test]
fn the_page_of_settings_lists_every_setting_with_its_default() {
    let page = include_str!("../../docs/settings.md");
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "none".to_owned(),
        serde_json::Value::String(text) if text.is_empty() => "empty".to_owned(),
        serde_json::Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    for setting in zombi::config::Config::settings() {
        let row = format!("| `{}` | {} |", setting.key, shown(&setting.default));
        assert!(page.contains(&row), "docs/settings.md has no row {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        rows,
        zombi::config::Config::settings().len(),
        "docs/settings.md lists a setting that is gone"
    );
}
