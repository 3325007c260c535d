//! `zombi consumers` and `consumer`.

use serde_json::json;
use testing::{Sent, TestServer, command::CommandLine};

use super::{FAILED, USAGE, lines, one, says, zombi};

#[tokio::test]
async fn groups_are_listed_with_their_lag() {
    let z = TestServer::start().await;
    let none = CommandLine::new(&["consumers", "-o", "table"]).at(&z).run().await;
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""));
    Sent::default().append(&z, "orders", 2, 5).await;
    for (group, offset) in [("billing", 1), ("mail", 3)] {
        let commit = json!({"table": "orders", "partition": 0, "offset": offset});
        assert_eq!(z.post(&format!("/consumers/{group}/commit"), &commit).await.0, 200);
    }
    let table = "GROUP    LAG  TABLES\nbilling    4  orders\nmail       2  orders\n";
    assert_eq!(zombi(&z, &["consumers", "-o", "table"]).await.out, table);
    assert_eq!(zombi(&z, &["consumers", "-o", "name"]).await.out, "billing\nmail\n");
    let json = lines(&zombi(&z, &["consumers"]).await);
    assert_eq!((&json[1]["group"], &json[1]["lag"]), (&json!("mail"), &json!(2)));

    let group =
        "TABLE   PARTITION  OFFSET  LAG\norders          0       1    2\norders          1       -    2\n";
    for words in
        [&["consumer", "billing", "-o", "table"][..], &["consumer", "show", "billing", "-o", "table"]]
    {
        assert_eq!(zombi(&z, words).await.out, group);
    }
    assert_eq!(one(&zombi(&z, &["consumer", "billing"]).await), z.get("/consumers/billing").await.1);
    says("nobody", &CommandLine::new(&["consumer", "nobody"]).at(&z).run().await, FAILED, &["unknown_group"]);

    // Partitions that are not moved are said to stay.
    let words = ["consumer", "reset", "billing", "orders", "--to", "2", "--partition", "0", "-o", "table"];
    let moved =
        "TABLE   PARTITION  OLD    NEW\norders          0    1      2\norders          1    -  stays\n";
    assert_eq!(zombi(&z, &words).await.out, moved);
    let again = moved.replace("    1      2", "    2  stays");
    assert_eq!(zombi(&z, &words).await.out, again);

    let delete = CommandLine::new(&["consumer", "delete", "mail"]).at(&z).run().await;
    says("without --yes", &delete, USAGE, &["--yes"]);
    zombi(&z, &["consumer", "delete", "mail", "--yes"]).await;
    assert_eq!(zombi(&z, &["consumers", "-o", "name"]).await.out, "billing\n");
}
