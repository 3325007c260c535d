//! Reads: backwards, and of what a filter wants.

use contracts::{
    catalog::TableChange,
    event::{Event, EventKey},
    filter::{EventCondition, EventField, ReadFilter, TextPattern, TimeFilter},
    name::PartitionNumber,
    partitioner::partition_of,
    read::{ReadLimit, ReadOrder, Wanted},
};

use super::{ALL, NOW, Volume, VolumeCase, event, offsets, table};

pub(super) async fn a_read_goes_back_from_a_position<V: Volume>(z: VolumeCase<V>) {
    z.append(0, 10).await;
    let back = |limit| Wanted { order: ReadOrder::Newest, ..Wanted::all(limit) };
    let page = z.look(0, 10, back(ALL)).await;
    assert_eq!(offsets(&page), (0..10).rev().collect::<Vec<_>>());
    assert_eq!((page.page.next, page.page.examined), (0, 10));
    let page = z.look(0, 7, back(ReadLimit { records: 3, ..ALL })).await;
    assert_eq!((offsets(&page), page.page.next), (vec![6, 5, 4], 4));
    let page = z.look(0, 7, back(ReadLimit { bytes: 1, ..ALL })).await;
    assert_eq!((offsets(&page), page.page.next), (vec![6], 6), "the first whatever its size");
    let times = TimeFilter { since: Some(4), until: Some(6) };
    let page = z.look(0, 10, Wanted { order: ReadOrder::Newest, ..Wanted::filtered(times, ALL) }).await;
    assert_eq!((offsets(&page), page.page.next), (vec![5, 4], 0));

    z.flush(0, 4).await;
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 4);
    let page = z.look(0, 10, back(ALL)).await;
    assert_eq!((offsets(&page), page.page.next), (vec![9, 8, 7, 6, 5, 4], 4), "down to what is hot");
    for from in [4, 3, 0] {
        let page = z.look(0, from, back(ALL)).await;
        assert_eq!((offsets(&page), page.page.next, page.watermarks.low), (vec![], from, 4));
    }
}

pub(super) async fn a_filter_looks_into_events<V: Volume>(z: VolumeCase<V>) {
    let of_kind = |n: i64| {
        let kind = if n % 3 == 1 { "order.paid" } else { "order.made" };
        Event { headers: [("type".to_owned(), kind.to_owned())].into(), ..event(n, None) }
    };
    let events = (0..10).map(|n| (0, of_kind(n))).collect();
    z.append_events(events).await.unwrap();
    let filter = |text: &str| ReadFilter {
        conditions: [EventCondition {
            field: EventField::Header("type".to_owned()),
            pattern: TextPattern::parse(text),
        }]
        .into(),
        ..ReadFilter::default()
    };
    for (text, wanted) in [
        ("order.paid", vec![1, 4, 7]),
        ("order.p*", vec![1, 4, 7]),
        ("order.*", (0..10).collect()),
        ("paid", vec![]),
    ] {
        let page = z.look(0, 0, Wanted::filtered(filter(text), ALL)).await;
        assert_eq!((offsets(&page), page.page.next, page.page.examined), (wanted, 10, 10), "{text}");
    }
    let times = TimeFilter { since: Some(2), until: Some(7) };
    let both = ReadFilter { time: times, ..filter("order.paid") };
    assert_eq!(offsets(&z.look(0, 0, Wanted::filtered(both, ALL)).await), [4]);
    // What it may look at counts, not what it finds.
    let few = |order| Wanted { order, most_examined: 4, ..Wanted::filtered(filter("order.paid"), ALL) };
    let page = z.look(0, 2, few(ReadOrder::Oldest)).await;
    assert_eq!((offsets(&page), page.page.next, page.page.examined), (vec![4], 6, 4));
    let page = z.look(0, 4, few(ReadOrder::Newest)).await;
    assert_eq!((offsets(&page), page.page.next, page.page.examined), (vec![1], 0, 4));
    let page = z.look(0, 7, few(ReadOrder::Newest)).await;
    assert_eq!((offsets(&page), page.page.next), (vec![4], 3));
}

pub(super) async fn a_key_has_a_home_until_keys_are_elsewhere<V: Volume>(mut z: VolumeCase<V>) {
    let key = EventKey::stored("customer-7");
    let home = |z: &VolumeCase<V>| z.hot().table(&table()).unwrap().home_of(key.as_str());
    let append = async |z: &VolumeCase<V>, partition: PartitionNumber, key: Option<&EventKey>| {
        let events = vec![(partition, Event { key: key.cloned(), ..event(0, None) })];
        z.append_events(events).await.unwrap();
    };
    let spread = |partitions| TableChange { partitions: Some(Some(partitions)), ..TableChange::default() };
    z.hot().configure_table(table(), spread(3)).await.unwrap();
    z.hot().configure_table(table(), spread(4)).await.unwrap();
    let chosen = partition_of(&key, 4);
    append(&z, chosen, Some(&key)).await;
    append(&z, (chosen + 1) % 4, None).await;
    z.crash().await;
    assert_eq!(home(&z), Some(chosen), "it had another number of partitions only before it had events");

    append(&z, (chosen + 1) % 4, Some(&key)).await;
    assert_eq!(home(&z), None, "an event of a key is where its sender wanted it");
    z.crash().await;
    assert_eq!(home(&z), None);

    z.hot().delete_table(table()).await.unwrap();
    append(&z, 0, None).await;
    assert_eq!(home(&z), Some(0), "none of those events is left");
    z.hot().configure_table(table(), spread(5)).await.unwrap();
    assert_eq!(home(&z), None, "keys have moved");
}
