//! One fetch of a merge from the tiers: hot is asked first, then cold for what hot no longer has.

use futures_util::{StreamExt, TryStreamExt, future::Either, stream};
use tokio::task;
use tokio_util::task::AbortOnDropHandle;

use super::{Ahead, HeldTurn, Merge};
use contracts::{
    error::{StorageError, Tier},
    name::{Partition, PartitionNumber},
    read::{HotPage, Page},
    sequence::{OffsetRange, Watermarks},
};

/// Partitions read from cold at once.
const PARALLEL_READS: usize = 8;

impl Merge {
    /// Fetches once for the partitions that have nothing fetched. Hot is asked first, then cold for what hot
    /// no longer has: see `reader`.
    pub(super) async fn fetch(&mut self) -> Result<(), StorageError> {
        let pages = self.fetch_hot().await?;
        let mut cold = Vec::new();
        for (number, hot) in pages {
            let Some(partial) = self.partials.get_mut(&number) else { continue };
            if partial.next < hot.watermarks.earliest {
                // Retention or DELETE was faster. A read that asked for no offset continues at the new
                // earliest one; one that did must learn that events are gone.
                if !self.query.from.contains_key(&number) && self.starts.get(&number) == Some(&partial.next) {
                    partial.next = hot.watermarks.earliest;
                    self.starts.insert(number, partial.next);
                    self.empty.push(number);
                    continue;
                }
                let (partition, earliest) =
                    (Partition::new(self.query.table.clone(), number), hot.watermarks.earliest);
                return Err(StorageError::Expired { partition, offset: partial.next, earliest });
            }
            if partial.next < hot.watermarks.low {
                let missing = OffsetRange::new(partial.next, hot.watermarks.low);
                let page = match partial.ahead.take() {
                    Some(Ahead::Cold(ahead)) => Either::Left(async move {
                        ahead.await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
                    }),
                    _ => Either::Right(self.reader.read_cold(&self.query, number, missing, self.chunk)?),
                };
                cold.push(async move { Ok::<_, StorageError>((number, hot.watermarks, page.await?)) });
            } else {
                self.take(number, hot.watermarks, hot.page)?;
            }
        }
        self.has_read = true;
        if !cold.is_empty() && matches!(self.turn, HeldTurn::Hot(_)) {
            // Evicted since the last fetch. A read that waits for S3 must not hold a turn that others need
            // for hot.
            self.turn = HeldTurn::None;
            self.turn = HeldTurn::Cold(self.reader.turns.cold().await?);
        }
        let mut cold = stream::iter(cold).buffer_unordered(PARALLEL_READS);
        while let Some((number, watermarks, page)) = cold.try_next().await? {
            self.take(number, watermarks, page)?;
        }
        Ok(())
    }

    /// What hot has of the partitions that have nothing fetched: of all of them, unless they have too much
    /// for one fetch. Those left out stay in `empty`.
    async fn fetch_hot(&mut self) -> Result<Vec<(PartitionNumber, HotPage)>, StorageError> {
        let most = self.empty.len();
        let (mut wanted, mut pages) = (Vec::with_capacity(most), Vec::with_capacity(most));
        for number in self.empty.drain(..) {
            let Some(partial) = self.partials.get_mut(&number) else { continue };
            match partial.ahead.take() {
                Some(Ahead::Hot(page)) => {
                    let page = page.await.map_err(|error| StorageError::unavailable(Tier::Hot, error))??;
                    pages.push((number, page));
                }
                cold => {
                    partial.ahead = cold;
                    wanted.push((number, partial.next));
                }
            }
        }
        if !wanted.is_empty() {
            let mut numbers: Vec<_> = wanted.iter().map(|(number, _)| *number).collect();
            let read = self.reader.hot.read(&self.query.table, wanted, self.query.filter, self.chunk).await?;
            self.empty.extend(numbers.split_off(read.len()));
            pages.extend(numbers.into_iter().zip(read));
        }
        Ok(pages)
    }

    /// Takes what a fetch has found in one partition.
    fn take(
        &mut self,
        number: PartitionNumber,
        watermarks: Watermarks,
        page: Page,
    ) -> Result<(), StorageError> {
        let Some(partial) = self.partials.get_mut(&number) else { return Ok(()) };
        let end = partial.end.unwrap_or(watermarks.next);
        // A page without progress would be fetched again for ever.
        assert!(
            page.next > partial.next || partial.next >= end,
            "{}/{number}: a read at {} went nowhere",
            self.query.table,
            partial.next
        );
        partial.next = page.next.min(end);
        partial.low = watermarks.low;
        let wanted = page.records.into_iter().take_while(|record| record.offset < end);
        partial.fetched.extend(wanted.inspect(|record| self.held += record.event.footprint()));
        match partial.fetched.front() {
            Some(head) => _ = self.heads.insert((head.event.timestamp_ms, number)),
            None if partial.next < end => self.empty.push(number),
            None => {}
        }
        if self.fetches_ahead && self.starts.len() <= PARALLEL_READS && partial.next < end {
            partial.ahead = Some(if partial.next < watermarks.low {
                let missing = OffsetRange::new(partial.next, watermarks.low.min(end));
                let page = self.reader.read_cold(&self.query, number, missing, self.chunk)?;
                Ahead::Cold(AbortOnDropHandle::new(task::spawn(page)))
            } else {
                Ahead::Hot(self.reader.read_hot(&self.query, number, partial.next, self.chunk))
            });
        }
        self.make_room();
        Ok(())
    }
}
