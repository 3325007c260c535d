//! The source is at work between a look at it and a GET.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use async_trait::async_trait;

use super::*;
use crate::{place::FoundObject, s3::Created};

/// A store whose merged segment (`store`) is merged again before it is read for the first time.
#[derive(Debug)]
struct MergedMeanwhile {
    place: Directory,
    framing: Framing,
    is_merged: AtomicBool,
}

/// What that segment holds.
const MERGED: OffsetRange = OffsetRange { start: 5, end: 15 };

impl MergedMeanwhile {
    async fn merge(&self) {
        let merged = put(&self.place, segment(MERGED.start, 20, self.framing)).await;
        let changes = Changes {
            removed: vec![SegmentRef::new(&partition(), MERGED)],
            added: vec![SegmentEntry::new(&partition(), &merged)],
            ..Changes::default()
        };
        let last = chain::load(&self.place).await.unwrap().last.unwrap();
        let link = Manifest { number: 2, written_ms: 25_000, opens: false, changes, ..last };
        self.place.create(&manifest::key(2), manifest::encode(&link).into()).await.unwrap();
        delete(&self.place, &segment(MERGED.start, MERGED.end, self.framing).meta).await;
    }
}

#[async_trait]
impl ObjectPlace for MergedMeanwhile {
    fn place(&self) -> String {
        self.place.place()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        let of_merged = format!("/{:020}-{:020}-", MERGED.start, MERGED.end);
        if key.contains(&of_merged) && !self.is_merged.swap(true, SeqCst) {
            self.merge().await;
        }
        self.place.get(key).await
    }

    async fn listed(&self, below: &str) -> Result<Vec<FoundObject>, StorageError> {
        self.place.listed(below).await
    }

    async fn first(&self, below: &str) -> Result<Option<String>, StorageError> {
        self.place.first(below).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        self.place.create(key, body).await
    }

    async fn replace(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        self.place.replace(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.place.delete(key).await
    }
}

#[tokio::test]
async fn a_segment_that_goes_just_before_it_is_cut_leads_to_another_plan() {
    for framing in [Framing::Zstd, Framing::Plain] {
        let scratch = Scratch::new();
        let (place, to) = (scratch.place("source"), scratch.place("restored"));
        store(&place, framing).await;
        let source = MergedMeanwhile { place, framing, is_merged: AtomicBool::new(false) };
        let point = RestorePoint::Manifest(0);
        let options = RestoreOptions { point, source_is_gone: true, ..RestoreOptions::default() };
        let report = restore(&source, &to, options, &Unwatched).await.unwrap();
        assert!(source.is_merged.load(SeqCst), "it was merged meanwhile");
        assert_eq!((report.manifest, report.cut_segments, report.events), (0, 1, 10));
        assert_eq!(events(&to).await, 10);
    }
}
