//! Completions and help.

use testing::command::CommandLine;

#[tokio::test]
async fn every_shell_has_its_completions() {
    for (shell, word) in [
        ("bash", "complete"),
        ("zsh", "#compdef zombi"),
        ("fish", "complete -c zombi"),
        ("elvish", "zombi"),
        ("powershell", "zombi"),
    ] {
        let ran = CommandLine::new(&["completions", shell]).run().await;
        assert_eq!(ran.code, Some(0), "{shell}: {}", ran.err);
        assert!(ran.out.contains(word) && ran.out.contains("consumers"), "{shell}: {:.300}", ran.out);
    }
}

#[tokio::test]
async fn who_has_seen_enough_of_what_is_only_shown_is_served() {
    for words in [&["completions", "bash"][..], &["config", "print"]] {
        assert_eq!(CommandLine::new(words).begin().closed().await, Some(0), "{words:?}");
    }
}

#[tokio::test]
async fn help_is_on_the_standard_output_and_mistakes_are_not() {
    for words in [&["--help"][..], &["append", "--help"], &["consumer", "reset", "--help"], &["help", "tail"]]
    {
        let ran = CommandLine::new(words).run().await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        assert!(ran.out.contains("Usage: zombi"), "{words:?}: {}", ran.out);
    }
    let ran = CommandLine::new(&["appendix"]).run().await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("append"), "it says what was meant: {}", ran.err);
}
