//! The help of every command as one page, `docs/clients/commands.md`: whoever changes a flag sees it change.

use clap::{Command, CommandFactory};

use super::Cli;

/// The page.
fn document() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         What `zombi help COMMAND` says of each. This page is made from the code; \
         [command-line.md](command-line.md) explains the client's part.\n",
    );
    let mut cli = Cli::command();
    cli.build();
    add(&mut text, &mut cli, "");
    text
}

/// Adds a command and those below it.
fn add(text: &mut String, command: &mut Command, above: &str) {
    let name = format!("{above}{}", command.get_name());
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        add(text, sub, &format!("{name} "));
    }
}

#[test]
fn the_committed_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients/commands.md");
    if option_env!("UPDATE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), document(), "run UPDATE_DOCS=1 cargo test --lib");
}
