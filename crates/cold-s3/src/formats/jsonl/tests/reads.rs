//! Reads of a segment of several frames, against a plain list of its events.

use contracts::{
    filter::{EventCondition, EventField, ReadFilter, TextPattern, TimeFilter},
    read::{Page, ReadLimit, ReadOrder, Wanted},
};

use super::{
    super::filter::Sought,
    super::read::{FetchedFrame, fill, overlapping},
    *,
};

const EVENTS: u64 = 800;
const START: Offset = 40;

/// Events of about a kilobyte each, every fifth of them of another type.
fn events() -> Vec<Record> {
    let event = |n: u64| {
        let kind = if n.is_multiple_of(5) { "order.paid" } else { "order.made" };
        let headers = BTreeMap::from([("type".to_owned(), kind.to_owned())]);
        let text = format!("{n} {}", "x".repeat(1000));
        let event = Event { headers, timestamp_ms: n as i64, ..record(START + n, &text).event };
        Record { partition: 3, offset: START + n, event }
    };
    (0..EVENTS).map(event).collect()
}

/// The frames of a segment.
fn frames_of(segment: &Segment, format: Jsonl) -> FrameIndex {
    let stored = SegmentObjects { body: segment.body.clone(), beside: segment.beside.clone() };
    format.whole_index(&located(segment), &stored).unwrap()
}

/// Reads a segment whose frames were all fetched.
fn read(segment: &Segment, format: Jsonl, query: &SegmentQuery) -> Page {
    let (index, order) = (frames_of(segment, format), query.wanted.order);
    let fetched = overlapping(&index, query.range, order).map(|place| FetchedFrame {
        range: index.offsets(place),
        stored: slice(&segment.body, &index.part(place).range),
    });
    let next = if order == ReadOrder::Oldest { query.range.start } else { query.range.end };
    let page = Page { records: Vec::new(), next, examined: 0 };
    fill(page, &located(segment), query, fetched.collect(), format).unwrap()
}

/// What a read of a plain list finds: the offsets, and the position behind the last event that it looked at.
fn read_list(records: &[Record], query: &SegmentQuery) -> (Vec<Offset>, Offset) {
    let Wanted { filter, order, limit, .. } = &query.wanted;
    let mut inside: Vec<_> = records.iter().filter(|record| query.range.contains(record.offset)).collect();
    if *order == ReadOrder::Newest {
        inside.reverse();
    }
    let next = if *order == ReadOrder::Oldest { query.range.start } else { query.range.end };
    let (mut found, mut next, mut bytes) = (Vec::new(), next, 0);
    for record in inside {
        if found.len() == limit.records {
            break;
        }
        if filter.wants(&record.event) {
            bytes += record.event.weight();
            if bytes > limit.bytes && !found.is_empty() {
                break;
            }
            found.push(record.offset);
        }
        next = order.behind(record.offset);
    }
    (found, next)
}

fn filter() -> impl Strategy<Value = ReadFilter> {
    let text = prop::option::of(prop::sample::select(vec!["order.paid", "order.*", "order.made", "other"]));
    let bound = prop::option::of(0..EVENTS as i64);
    (text, bound.clone(), bound).prop_map(|(text, since, until)| {
        let condition = |text: &str| EventCondition {
            field: EventField::Header("type".to_owned()),
            pattern: TextPattern::parse(text),
        };
        let conditions = text.into_iter().map(condition).collect();
        ReadFilter { time: TimeFilter { since, until }, conditions }
    })
}

/// Any read of the segment.
fn query() -> impl Strategy<Value = SegmentQuery> {
    let order = prop::sample::select(vec![ReadOrder::Oldest, ReadOrder::Newest]);
    let limit = (1usize..1000, 1usize..1_000_000);
    ((0..EVENTS, 1..EVENTS), filter(), order, limit).prop_map(
        |((from, length), filter, order, (records, bytes))| {
            let range = OffsetRange::new(START + from, START + (from + length).min(EVENTS));
            let limit = ReadLimit { records, bytes };
            SegmentQuery { range, wanted: Wanted { order, ..Wanted::filtered(filter, limit) } }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_and_filtered_a_read_finds_what_a_list_has(
        format in prop::sample::select(ALL.to_vec()),
        query in query(),
    ) {
        let records = events();
        let segment = encode(&records, format);
        let page = read(&segment, format, &query);
        let found: Vec<_> = page.records.iter().map(|record| record.offset).collect();
        prop_assert_eq!((found, page.next), read_list(&records, &query));
        for record in &page.records {
            prop_assert_eq!(record, &records[(record.offset - START) as usize]);
        }
    }

    /// Whatever is looked for, no frame that has it is left out; and one that has none of it is read by
    /// chance only.
    #[test]
    fn a_frame_that_holds_what_is_sought_is_never_left_out(
        format in prop::sample::select(ALL.to_vec()),
        filter in filter(),
        key in prop::option::of(0..EVENTS / 10),
    ) {
        let mut records = events();
        for record in &mut records {
            record.event.key = Some(EventKey::stored(format!("customer {}", (record.offset - START) / 10)));
        }
        let of_key = key.map(|key| EventCondition {
            field: EventField::Key,
            pattern: TextPattern::Exact(format!("customer {key}")),
        });
        let conditions = filter.conditions.iter().cloned().chain(of_key).collect();
        let filter = ReadFilter { conditions, ..filter };
        let index = frames_of(&encode(&records, format), format);
        let sought = Sought::of(&filter);
        let limit = ReadLimit { records: 1, bytes: 1 };
        let range = OffsetRange::new(START, START + EVENTS);
        let query = SegmentQuery { range, wanted: Wanted::filtered(filter.clone(), limit) };
        let mut kept = 0;
        for place in 0..index.frames.len() {
            let range = index.offsets(place);
            let has = records.iter().any(|one| range.contains(one.offset) && filter.wants(&one.event));
            let is_kept = index.may_match(place, &query, &sought);
            prop_assert!(is_kept || !has, "frame {place}");
            kept += usize::from(is_kept);
        }
        prop_assert_eq!(index.filters.is_empty(), format.version != Version::Three);
        // Ten events in a row have a key, in one frame or over the border of two.
        if key.is_some() && format.version == Version::Three {
            prop_assert!(kept < index.frames.len(), "all of {kept} frames");
        }
    }

    #[test]
    fn the_frames_of_a_range_are_the_same_both_ways(from in 0..EVENTS, length in 1..EVENTS) {
        let format = ALL[0];
        let index = frames_of(&encode(&events(), format), format);
        let range = OffsetRange::new(START + from, START + (from + length).min(EVENTS));
        let forward: Vec<_> = overlapping(&index, range, ReadOrder::Oldest).collect();
        let mut backward: Vec<_> = overlapping(&index, range, ReadOrder::Newest).collect();
        backward.reverse();
        prop_assert_eq!(&forward, &backward);
        let holds = |place: &usize| !index.offsets(*place).overlap(range).is_empty();
        prop_assert_eq!(forward, (0..index.frames.len()).filter(holds).collect::<Vec<_>>());
    }
}
