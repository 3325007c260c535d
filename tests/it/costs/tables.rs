//! Tables: those that are written, those with settings of their own, and those that were deleted.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::json;

use super::{all, cost_the_same, operations::append};
use testing::TestServer;

fn name(number: usize) -> String {
    format!("table-{number:04}")
}

async fn write(z: &TestServer, tables: Range<usize>) {
    all(tables.map(|number| async move { append(z, &name(number), "").await })).await;
}

async fn configure(z: &TestServer, tables: Range<usize>) {
    let settings = json!({"retention_secs": 1_000_000, "partitions": 4});
    let configured = tables.map(|number| {
        let settings = &settings;
        async move { z.put(&format!("/tables/{}/config", name(number)), settings).await }
    });
    for (status, body) in all(configured).await {
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

async fn write_and_delete(z: &TestServer, tables: Range<usize>) {
    let deleted = tables.map(|number| async move {
        append(z, &name(number), "").await;
        z.delete(&format!("/tables/{}", name(number))).await
    });
    for (status, body) in all(deleted).await {
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }
}

#[tokio::test]
async fn nothing_costs_more_beside_a_thousand_tables() {
    cost_the_same(1000, write, &[]).await;
}

#[tokio::test]
async fn nothing_costs_more_beside_a_thousand_tables_with_settings() {
    cost_the_same(1000, configure, &[]).await;
}

#[tokio::test]
async fn nothing_costs_more_after_five_hundred_tables_were_deleted() {
    cost_the_same(500, write_and_delete, &[]).await;
}
