//! What a policy decides, against a look at every binding.

use proptest::prelude::*;

use super::*;

const FILE: &str = r#"
version: 1
roles:
  auditor: [read]
  janitor: [rewind, manage]
bindings:
  - subjects: ["sa:shop/checkout", "sa:shop/api"]
    role: producer
    tables: ["orders", "payments.*"]
  - subjects: ["sa:billing/*"]
    role: consumer
    tables: ["orders"]
    groups: ["billing", "billing-*"]
  - subjects: ["cert:spiffe://corp/ns/ops/sa/oncall", "token:breakglass"]
    role: operator
    tables: ["*"]
    groups: ["*"]
  - subjects: ["*"]
    anonymous: true
    role: auditor
    tables: ["public.*"]
  - subjects: ["oidc:*"]
    role: operator
  - subjects: ["token:janitor"]
    role: janitor
    tables: ["tmp*"]
    groups: ["tmp*"]
  - subjects: ["sa:shop/checkout"]
    role: owner
    tables: ["orders", "carts"]
quotas:
  default: {requests_per_sec: 500, streams: 16, tables: 0}
  bindings:
    - {subjects: ["sa:shop/checkout"], requests_per_sec: 5000}
    - {subjects: ["sa:shop/*"], requests_per_sec: 1, streams: 2}
    - {subjects: ["sa:*"], streams: 3, groups: 7}
    - {subjects: ["sa:shop/checkout", "anonymous"], inflight_bytes: 9}
"#;

fn policy() -> Policy {
    Policy::parse(FILE).unwrap()
}

fn principal(text: &str) -> Principal {
    text.parse().unwrap()
}

fn can(who: &str, verb: Verb, what: &str) -> Decision {
    let principal = principal(who);
    match what.split_once(':') {
        Some(("group", name)) => {
            policy().decide(&principal, verb, Resource::Group(&GroupName::parse(name).unwrap()))
        }
        Some((_, name)) => {
            policy().decide(&principal, verb, Resource::Table(&TableName::parse(name).unwrap()))
        }
        None => policy().decide(&principal, verb, Resource::Server),
    }
}

#[test]
fn a_binding_gives_its_role_on_its_names() {
    for (who, verb, what, binding) in [
        ("sa:shop/checkout", Verb::Append, "table:orders", 0),
        ("sa:shop/api", Verb::Append, "table:payments.eu", 0),
        ("sa:shop/checkout", Verb::Append, "table:carts", 6),
        ("sa:shop/checkout", Verb::Manage, "table:orders", 6),
        ("sa:billing/a", Verb::Read, "table:orders", 1),
        ("sa:billing/a", Verb::Commit, "group:billing", 1),
        ("sa:billing/b", Verb::Commit, "group:billing-eu", 1),
        ("token:breakglass", Verb::Append, "table:any", 2),
        ("cert:spiffe://corp/ns/ops/sa/oncall", Verb::Rewind, "group:any", 2),
        ("token:breakglass", Verb::Operate, "server", 2),
        ("token:breakglass", Verb::Operate, "table:any", 2),
        ("anonymous", Verb::Read, "table:public.a", 3),
        ("sa:shop/api", Verb::Read, "table:public.a", 3),
        ("oidc:1", Verb::Operate, "server", 4),
        ("token:janitor", Verb::Manage, "table:tmp1", 5),
        ("token:janitor", Verb::Rewind, "group:tmp", 5),
    ] {
        assert_eq!(can(who, verb, what), Decision::Allowed { binding }, "{who} {verb:?} {what}");
    }
}

#[test]
fn everything_else_is_denied() {
    for (who, verb, what) in [
        ("sa:shop/api", Verb::Read, "table:orders"),
        ("sa:shop/api", Verb::Append, "table:payments"),
        ("sa:shop/api", Verb::Append, "table:ORDERS"),
        ("sa:shop/api", Verb::Append, "table:orders.x"),
        ("sa:shop/ap", Verb::Append, "table:orders"),
        ("sa:shop/api2", Verb::Append, "table:orders"),
        ("sa:shop/checkout", Verb::Commit, "group:orders"),
        ("sa:billing/a", Verb::Read, "table:payments.eu"),
        ("sa:billing/a", Verb::Append, "table:orders"),
        ("sa:billing/a", Verb::Rewind, "group:billing"),
        ("sa:billing/a", Verb::Commit, "group:billin"),
        ("sa:billings/a", Verb::Read, "table:orders"),
        ("sa:billing/a", Verb::Commit, "table:orders"),
        ("token:billing", Verb::Read, "table:orders"),
        ("token:breakglass", Verb::Read, "group:any"),
        ("token:breakglass", Verb::Append, "server"),
        ("token:breakglass", Verb::Open, "server"),
        ("token:breakglass2", Verb::Read, "table:any"),
        ("anonymous", Verb::Append, "table:public.a"),
        ("anonymous", Verb::Read, "table:orders"),
        ("anonymous", Verb::Operate, "server"),
        ("oidc:1", Verb::Append, "table:any"),
        ("oidc:1", Verb::Commit, "group:any"),
        ("token:janitor", Verb::Read, "table:tmp1"),
    ] {
        assert_eq!(can(who, verb, what), Decision::Denied, "{who} {verb:?} {what}");
    }
}

#[test]
fn a_binding_is_shown_as_the_file_has_it() {
    let policy = policy();
    let shown = |number: usize| policy.binding(number).map(|one| (one.role(), one.subjects().join(" ")));
    assert_eq!(shown(0), Some(("producer", "sa:shop/checkout sa:shop/api".to_owned())));
    assert_eq!(shown(1), Some(("consumer", "sa:billing/*".to_owned())));
    assert_eq!(shown(3), Some(("auditor", "*".to_owned())));
    assert_eq!(shown(7), None);
    assert!(policy.has_binding_for_everybody());
}

#[test]
fn who_is_denied_lacks_a_binding_a_verb_or_a_name() {
    let text = "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: owner, tables: [orders]}\n";
    let policy = Policy::parse(text).unwrap();
    let lacking = |who: &str, verb: Verb| policy.lacking(&principal(who), verb);
    assert_eq!(lacking("token:cd", Verb::Read), Lacking::Binding);
    assert_eq!(lacking("token:ci", Verb::Operate), Lacking::Verb);
    assert_eq!(lacking("token:ci", Verb::Commit), Lacking::Name);
    assert!(!policy.has_binding_for_everybody());
}

#[test]
fn without_bindings_nobody_may_do_anything() {
    let policy = Policy::parse("version: 1\nbindings: []\n").unwrap();
    for who in ["anonymous", "token:ci", "sa:a/b"] {
        let decision = policy.decide(&principal(who), Verb::Operate, Resource::Server);
        assert!(!decision.is_allowed());
        assert_eq!(policy.quota(&principal(who)), Quota::default());
    }
}

#[test]
fn the_built_in_roles_have_their_verbs() {
    let text = ["producer", "consumer", "owner", "operator"].map(|role| {
        format!("- {{subjects: [\"token:{role}\"], role: {role}, tables: [\"*\"], groups: [\"*\"]}}\n")
    });
    let policy = Policy::parse(&format!("version: 1\nbindings:\n{}", text.concat())).unwrap();
    let (table, group) = (TableName::parse("t").unwrap(), GroupName::parse("g").unwrap());
    let verbs = [
        (Verb::Append, Resource::Table(&table)),
        (Verb::Read, Resource::Table(&table)),
        (Verb::Commit, Resource::Group(&group)),
        (Verb::Rewind, Resource::Group(&group)),
        (Verb::Manage, Resource::Table(&table)),
        (Verb::Operate, Resource::Server),
    ];
    for (role, expected) in
        [("producer", "+-----"), ("consumer", "-++---"), ("owner", "+++++-"), ("operator", "++++++")]
    {
        let principal = Principal::Token(role.to_owned());
        let may = verbs.map(|(verb, resource)| policy.decide(&principal, verb, resource).is_allowed());
        assert_eq!(may.map(|may| if may { '+' } else { '-' }).iter().collect::<String>(), expected, "{role}");
    }
}

#[test]
fn a_member_is_that_of_the_last_entry_and_a_full_name_counts_more() {
    let quota = |who: &str| policy().quota(&principal(who));
    let default =
        Quota { requests_per_sec: Some(500), streams: Some(16), tables: Some(0), ..Quota::default() };
    assert_eq!(quota("token:ci"), default);
    assert_eq!(quota("anonymous"), Quota { inflight_bytes: Some(9), ..default });
    assert_eq!(quota("sa:billing/a"), Quota { streams: Some(3), groups: Some(7), ..default });
    let of_shop = Quota { requests_per_sec: Some(1), streams: Some(3), groups: Some(7), ..default };
    assert_eq!(quota("sa:shop/api"), of_shop);
    assert_eq!(
        quota("sa:shop/checkout"),
        Quota { requests_per_sec: Some(5000), inflight_bytes: Some(9), ..of_shop }
    );
}

/// A binding for a generated policy: subject, verbs, table pattern, group pattern.
type Drawn = (String, Vec<Verb>, String, String);

fn drawn() -> impl Strategy<Value = Drawn> {
    let verbs = [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate];
    (
        "token:[ab]{1,2}\\*?",
        prop::sample::subsequence(verbs.to_vec(), 1..=6),
        "[ab]{1,2}\\*?|\\*",
        "[ab]{1,2}\\*?|\\*",
    )
}

fn fits(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |prefix| text.starts_with(prefix))
}

proptest! {
    #[test]
    fn a_decision_is_that_of_a_look_at_every_binding(
        bindings in prop::collection::vec(drawn(), 0..8),
        name in "[ab]{1,3}",
        wanted in "[ab]{1,3}",
    ) {
        let mut text = "version: 1\nroles:\n  none: [read]\n".to_owned();
        for (number, (_, verbs, ..)) in bindings.iter().enumerate() {
            let verbs: Vec<String> = verbs.iter().map(|verb| format!("{verb:?}").to_lowercase()).collect();
            text.push_str(&format!("  r{number}: [{}]\n", verbs.join(", ")));
        }
        text.push_str("bindings:\n");
        if bindings.is_empty() {
            text.push_str("  []\n");
        }
        for (number, (subject, _, table, group)) in bindings.iter().enumerate() {
            text.push_str(&format!("  - subjects: [\"{subject}\"]\n    role: r{number}\n"));
            text.push_str(&format!("    tables: [\"{table}\"]\n    groups: [\"{group}\"]\n"));
        }
        let policy = Policy::parse(&text).unwrap();
        let principal = Principal::Token(name.clone());
        let (table, group) = (TableName::parse(&wanted).unwrap(), GroupName::parse(&wanted).unwrap());
        for verb in [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate] {
            let is_of_table = matches!(verb, Verb::Append | Verb::Read | Verb::Manage);
            let resource = match verb {
                Verb::Operate => Resource::Server,
                _ if is_of_table => Resource::Table(&table),
                _ => Resource::Group(&group),
            };
            let expected = bindings.iter().position(|(subject, verbs, tables, groups)| {
                let names = if is_of_table { tables } else { groups };
                fits(subject, &format!("token:{name}"))
                    && verbs.contains(&verb)
                    && (verb == Verb::Operate || fits(names, &wanted))
            });
            let expected = expected.map_or(Decision::Denied, |binding| Decision::Allowed { binding });
            prop_assert_eq!(policy.decide(&principal, verb, resource), expected);
            prop_assert_eq!(policy.decide(&Principal::Anonymous, verb, resource), Decision::Denied);
        }
    }

    #[test]
    fn any_text_is_a_policy_or_an_error(text in "(version: 1\n)?(bindings:\n)?[-a-z:*{}\"', \n]{0,80}") {
        if let Err(error) = Policy::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
