//! `zombi tables`, `table` and `flush`.

use serde_json::json;
use testing::{Sent, TestServer, command::CommandLine};

use super::{
    FAILED, USAGE, lines, one, says,
    scripted::{Scripted, ok},
    zombi,
};

#[tokio::test]
async fn tables_are_listed_page_by_page() {
    let z = TestServer::start().await;
    let none = CommandLine::new(&["tables", "-o", "table"]).at(&z).run().await;
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""));
    assert!(none.err.contains("no tables"), "{}", none.err);
    for (table, count) in [("orders", 3), ("carts", 1)] {
        Sent::default().append(&z, table, 2, count).await;
    }
    assert_eq!(zombi(&z, &["tables", "-o", "name"]).await.out, "carts\norders\n");
    let json = lines(&zombi(&z, &["tables"]).await);
    assert_eq!((json.len(), &json[1]), (2, &z.get("/tables").await.1["tables"][1]));
    let table = zombi(&z, &["tables", "-o", "table"]).await.out;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TABLE", "PARTITIONS", "EVENTS", "HOT", "COLD"]);
    assert_eq!((&rows[1][..3], &rows[2][..3]), (&["carts", "1", "1"][..], &["orders", "2", "3"][..]));
    let wide = zombi(&z, &["tables", "-o", "wide"]).await.out;
    assert!(wide.lines().all(|line| line.ends_with("KEPT FOR") || line.ends_with("ever")), "{wide}");

    let mut page = z.get("/tables").await.1;
    page["has_more"] = json!(true);
    page["next"] = json!("orders");
    let last = json!({"tables": [], "has_more": false, "next": null});
    let server = Scripted::start(vec![ok(page), ok(last)]).await;
    assert_eq!(server.command(&["tables", "-o", "name"]).run().await.out, "carts\norders\n");
    let asked: Vec<String> = server.heard().into_iter().map(|heard| heard.line).collect();
    assert_eq!(asked, ["GET /tables", "GET /tables?after=orders"]);
}

#[tokio::test]
async fn a_table_is_shown_set_and_deleted() {
    let z = TestServer::start().await;
    zombi(&z, &["table", "set", "one", "--partitions", "1"]).await;
    let one_partition = zombi(&z, &["table", "one", "-o", "table"]).await.out;
    assert!(one_partition.starts_with("one: keys over 1 partition, "), "{one_partition}");
    let set =
        ["table", "set", "t", "--partitions", "4", "--retention", "7d", "--retention-bytes", "1073741824"];
    let config = one(&zombi(&z, &set).await);
    assert_eq!((&config["partitions"], &config["retention_secs"]), (&json!(4), &json!(604_800)));
    let back = zombi(&z, &["table", "set", "t", "--retention", "default", "-o", "table"]).await.out;
    assert_eq!(back, "TABLE  PARTITIONS  KEPT FOR\nt               4  1.00 GiB\n");
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 3).await;
    for words in [&["table", "t"][..], &["table", "show", "t"]] {
        assert_eq!(one(&zombi(&z, words).await), z.get("/tables/t/partitions").await.1);
    }
    let shown = zombi(&z, &["table", "t", "-o", "table"]).await.out;
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(shown.lines().next().unwrap(), "t: keys over 4 partitions, events kept for 1.00 GiB");
    assert_eq!(rows[2][..5], ["PARTITION", "EARLIEST", "LOW", "FLUSHED", "NEXT"]);
    assert_eq!(
        (&rows[3][..5], &rows[4][..5]),
        (&["0", "0", "0", "0", "2"][..], &["1", "0", "0", "0", "1"][..])
    );

    let refused = CommandLine::new(&["table", "delete", "t"]).at(&z).run().await;
    says("without --yes", &refused, USAGE, &["--yes"]);
    assert_eq!(z.get("/tables/t").await.0, 200);
    zombi(&z, &["table", "delete", "t", "--yes"]).await;
    says("it is gone", &CommandLine::new(&["table", "t"]).at(&z).run().await, FAILED, &["unknown_table"]);
    let shrink = ["table", "set", "t", "--partitions", "0"];
    says("none at all", &CommandLine::new(&shrink).at(&z).run().await, FAILED, &["partition_out_of_range"]);
    says("which?", &CommandLine::new(&["table"]).at(&z).run().await, USAGE, &["zombi tables"]);
}

#[tokio::test]
async fn a_flush_says_what_it_has_moved() {
    let z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 2, 30).await;
    Sent::default().append(&z, "u", 1, 5).await;
    let flushed = one(&zombi(&z, &["flush", "t"]).await);
    assert_eq!((&flushed["events"], flushed["segments"].as_array().unwrap().len()), (&json!(30), 2));
    let all = zombi(&z, &["flush", "-o", "table"]).await.out;
    let rows: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[1][1], *rows[1].last().unwrap()), ("(all)", "5", "1"), "{all}");
    z.audit().await;
    let hot = TestServer::start().await;
    says("no bucket", &CommandLine::new(&["flush"]).at(&hot).run().await, FAILED, &["no_cold_tier"]);
}
