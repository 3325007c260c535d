//! The commands that ask the policy and make tokens.

use std::{fmt, io::Write};

use clap::{Args, Subcommand};

use super::{answer::Unanswered, exit, flags::SettingFlags};
use crate::{
    auth::verb::Verb,
    auth::{
        files,
        policy::{Decision, Lacking, Policy, Resource, VERBS},
        principal::Principal,
        tokens::{self, NoNewToken},
    },
    settings::Settings,
};
use contracts::name::{BadName, GroupName, TableName};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: prints it once, and the line for the file of tokens
    #[command(after_help = "\
Standard output has two lines: the token, for whoever is to use it, and a line for the list in \
auth.tokens_file, with the token's SHA-256. The token is kept nowhere. The policy names it token:NAME.

Example: zombi token new ci")]
    New {
        /// The token's name; more than one token may have it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AuthCommand {
    /// Say whether a principal may do something, and which binding of the policy lets it
    #[command(after_help = "\
Reads the policy that auth.policy_file names. Exits with 0 for yes, 1 for no, and 2 if the question or the \
policy makes no sense.

Example: zombi auth can sa:shop/checkout append orders
         zombi auth can sa:billing/worker commit billing
         zombi auth can token:oncall operate")]
    Can {
        #[command(flatten)]
        question: Question,
        #[command(flatten, next_help_heading = "Settings")]
        settings: SettingFlags,
    },
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// Who: sa:NAMESPACE/NAME, oidc:SUB, token:NAME, cert:URI or anonymous
    principal: Principal,
    /// Does what: append, read, commit, rewind, manage or operate
    #[arg(value_parser = parse_verb)]
    verb: Verb,
    /// With which table; for commit and rewind, with which consumer group; operate needs none
    #[arg(value_name = "TABLE")]
    name: Option<String>,
}

/// Prints a new token and the line for the file, and what they are to `people`, so that a program that reads
/// the output finds the two alone.
///
/// # Errors
/// [`Unanswered`] if the name is wrong, or there are no random bytes.
pub(super) fn new_token(name: &str, out: &mut dyn Write, people: &mut dyn Write) -> Result<u8, Unanswered> {
    let token = tokens::new_token(name).map_err(|error| match error {
        NoNewToken::Name => Unanswered::Usage(error.to_string()),
        NoNewToken::Random(_) => Unanswered::Failed(error.to_string()),
    })?;
    writeln!(people, "The token, shown only this once:")?;
    writeln!(out, "{}", token.plain)?;
    writeln!(people, "The line for auth.tokens_file, below `tokens:`; it is no secret:")?;
    writeln!(out, "{}", token.line)?;
    Ok(exit::DONE)
}

/// Answers whether the policy lets a principal do something.
///
/// # Errors
/// [`Unanswered`] if the question makes no sense, or there is no policy that can be used.
pub(super) fn can(settings: &Settings, question: &Question, out: &mut dyn Write) -> Result<u8, Unanswered> {
    let Question { principal, verb, .. } = question;
    let object = AskedObject::of(question)?;
    let why = "auth.policy_file is not set: there is no policy to ask";
    let path = settings.auth.policy_file.as_deref().ok_or_else(|| Unanswered::Usage(why.to_owned()))?;
    let policy = files::read_policy(path).map_err(|bad| Unanswered::Usage(bad.to_string()))?;
    match policy.decide(principal, *verb, object.resource()) {
        Decision::Allowed { binding } => {
            writeln!(out, "yes: {}", deciding(&policy, binding))?;
            if *verb == Verb::Commit {
                writeln!(out, "a commit for a table needs the verb read on that table, too")?;
            }
            Ok(exit::DONE)
        }
        Decision::Denied => {
            let verb_name = verb.name();
            match policy.lacking(principal, *verb) {
                Lacking::Binding => writeln!(out, "no: no binding is for {principal}")?,
                Lacking::Verb => writeln!(out, "no: no binding for {principal} gives it {verb_name}")?,
                Lacking::Name => {
                    writeln!(out, "no: no binding that gives {principal} {verb_name} is for {object}")?;
                }
            }
            Ok(if contracts::mutant("cli_can") { exit::DONE } else { exit::FAILED })
        }
    }
}

/// The binding that decides, as the file has it; named as the file's errors name it.
fn deciding(policy: &Policy, number: usize) -> String {
    let shown = policy.binding(number).map(|binding| (binding.role(), binding.subjects().join(", ")));
    let (role, subjects) = shown.unwrap_or_default();
    format!("bindings[{number}] gives the role {role} to {subjects}")
}

/// What a question is about.
enum AskedObject {
    Table(TableName),
    Group(GroupName),
    Server,
}

impl AskedObject {
    /// By the verb, as the server looks at it.
    fn of(Question { verb, name, .. }: &Question) -> Result<Self, Unanswered> {
        let bad_name = |error: BadName| Unanswered::Usage(error.to_string());
        let name = name.as_deref();
        let missing = |what: &str| Unanswered::Usage(format!("{} needs a {what}", verb.name()));
        match verb {
            Verb::Append | Verb::Read | Verb::Manage => {
                TableName::parse(name.ok_or_else(|| missing("table"))?).map(Self::Table).map_err(bad_name)
            }
            Verb::Commit | Verb::Rewind => {
                let name = name.ok_or_else(|| missing("consumer group"))?;
                GroupName::parse(name).map(Self::Group).map_err(bad_name)
            }
            // Whoever may operate may do it everywhere; a table that is named all the same is a table.
            Verb::Operate | Verb::Open => name
                .map_or(Ok(Self::Server), |name| TableName::parse(name).map(|_| Self::Server))
                .map_err(bad_name),
        }
    }

    fn resource(&self) -> Resource<'_> {
        match self {
            Self::Table(table) => Resource::Table(table),
            Self::Group(group) => Resource::Group(group),
            Self::Server => Resource::Server,
        }
    }
}

impl fmt::Display for AskedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => write!(f, "the table {table}"),
            Self::Group(group) => write!(f, "the consumer group {group}"),
            Self::Server => f.write_str("the server"),
        }
    }
}

fn parse_verb(text: &str) -> Result<Verb, String> {
    let found = VERBS.into_iter().find(|verb| verb.name() == text);
    found.ok_or_else(|| format!("there are {}", VERBS.map(Verb::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::{super::Cli, *};
    use crate::{
        auth::{settings::AuthSettings, tokens::Tokens},
        cli::{Command, StoreCommand},
    };

    const POLICY: &str = r#"
version: 1
bindings:
  - {subjects: ["sa:shop/checkout", "sa:shop/a*"], role: producer, tables: ["orders"]}
  - {subjects: ["token:ci"], role: consumer, tables: ["orders"], groups: ["billing-*"]}
  - {subjects: ["token:oncall"], role: operator}
"#;

    fn settings(policy: &str) -> (TempDir, Settings) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        std::fs::write(&path, policy).unwrap();
        let auth = AuthSettings { policy_file: Some(path), ..AuthSettings::default() };
        (directory, Settings { auth, ..Settings::default() })
    }

    fn question(words: &str) -> Result<Question, String> {
        let words = ["zombi", "auth", "can"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Some(Command::Store(StoreCommand::Auth { command: AuthCommand::Can { question, .. } })) => {
                Ok(question)
            }
            other => Err(format!("{other:?}")),
        }
    }

    fn ask(settings: &Settings, words: &str) -> Result<(u8, String), String> {
        let mut out: Vec<u8> = Vec::new();
        let code = can(settings, &question(words)?, &mut out).map_err(|error| {
            assert_eq!(error.exit_code(), exit::USAGE);
            error.to_string()
        })?;
        Ok((code, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn yes_has_the_binding_that_says_so() {
        let (_directory, settings) = settings(POLICY);
        let of_shop = "yes: bindings[0] gives the role producer to sa:shop/checkout, sa:shop/a*\n";
        let commit = "yes: bindings[1] gives the role consumer to token:ci\n\
                      a commit for a table needs the verb read on that table, too\n";
        let of_oncall = "yes: bindings[2] gives the role operator to token:oncall\n";
        for (words, expected) in [
            ("sa:shop/api append orders", of_shop),
            ("token:ci commit billing-eu", commit),
            ("token:oncall operate", of_oncall),
            ("token:oncall operate orders", of_oncall),
        ] {
            assert_eq!(ask(&settings, words), Ok((exit::DONE, expected.to_owned())), "{words}");
        }
    }

    #[test]
    fn no_has_a_reason() {
        let (_directory, settings) = settings(POLICY);
        for (words, why) in [
            ("anonymous read orders", "no binding is for anonymous"),
            ("token:ci append orders", "no binding for token:ci gives it append"),
            ("token:ci read carts", "no binding that gives token:ci read is for the table carts"),
            ("token:ci commit b", "no binding that gives token:ci commit is for the consumer group b"),
            ("token:oncall manage orders", "is for the table orders"),
        ] {
            let (code, said) = ask(&settings, words).unwrap();
            assert_eq!(code, exit::FAILED, "{words}: {said}");
            assert!(said.starts_with("no: ") && said.contains(why), "{words}: {said}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_neither_yes_nor_no() {
        let (_directory, right) = settings(POLICY);
        for (words, why) in [
            ("checkout append orders", "checkout"),
            ("sa:shop append orders", "sa: is followed by"),
            ("token:ci peruse orders", "there are append, read"),
            ("token:ci open orders", "there are append, read"),
            ("token:ci read a/b", "a/b"),
            ("token:ci commit a/b", "a/b"),
            ("token:ci operate a/b", "a/b"),
            ("token:ci read", "read needs a table"),
            ("token:ci rewind", "rewind needs a consumer group"),
        ] {
            let said = ask(&right, words).unwrap_err();
            assert!(said.contains(why), "{words}: {said}");
        }
        let (_directory, wrong) = settings("version: 2\nbindings: []\n");
        let said = ask(&wrong, "token:ci read orders").unwrap_err();
        assert!(said.contains("policy.yaml: line 1, version: must be 1"), "{said}");
        let said = ask(&Settings::default(), "token:ci read orders").unwrap_err();
        assert!(said.contains("auth.policy_file"), "{said}");
    }

    #[test]
    fn a_new_token_stands_alone_above_its_line() {
        let (mut out, mut people): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        assert_eq!(new_token("ci", &mut out, &mut people).unwrap(), exit::DONE);
        let (out, people) = (String::from_utf8(out).unwrap(), String::from_utf8(people).unwrap());
        let (plain, line) = out.split_once('\n').unwrap();
        assert!(!line.contains(plain) && !people.contains(plain) && !people.contains("sha256"), "{people}");
        let tokens = Tokens::parse(&format!("version: 1\ntokens:\n{line}")).unwrap();
        assert_eq!(tokens.find(plain, 0).unwrap().principal.to_string(), "token:ci");
        let wrong = new_token("a b", &mut std::io::sink(), &mut std::io::sink()).unwrap_err();
        assert_eq!(wrong.exit_code(), exit::USAGE);
    }
}
