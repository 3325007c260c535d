//! That nothing is found of an erased event says something only because everything is found of one that is
//! there.

use std::collections::BTreeSet;

use serde_json::json;

use super::{OF_PARTS, done, erase, expect_erased, expect_kept, holders, secrets, text_like_no_other, write};
use testing::TestServer;

#[test]
fn no_four_bytes_come_twice_in_what_is_looked_for() {
    let mut seen = BTreeSet::new();
    for number in 0..100 {
        for text in OF_PARTS.map(|part| text_like_no_other(number + part)) {
            for four in text.as_bytes().windows(4) {
                assert!(seen.insert(four.to_owned()), "{text} of event {number}");
            }
        }
    }
}

#[tokio::test]
async fn all_of_an_event_is_found_in_a_table_file_until_it_is_erased() {
    const EVENTS: usize = 40;
    let mut z = TestServer::start().await;
    write(&z, 0..EVENTS).await;
    // At a start, what the log holds goes into a table file, which is compressed.
    z.crash().await;
    for number in 0..EVENTS {
        for secret in secrets(number) {
            let holders = holders(&z, &secret);
            assert!(holders.iter().any(|file| file.ends_with(".sst")), "{secret} of {number}: {holders:?}");
        }
    }
    let erased = [0, 7, 8, EVENTS - 1];
    done(&z, &erase(&z, &json!({"offsets": erased})).await).await;
    for number in 0..EVENTS {
        match erased.contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
}
