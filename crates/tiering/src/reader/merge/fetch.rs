//! One fetch of a merge from the tiers: hot is asked first, then cold for what hot no longer has.

use futures_util::{StreamExt, TryStreamExt, future::Either, stream};
use tokio::task;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::order::{Whereabouts, head, missing, reaches, whereabouts},
    HeldTurn, Merge,
    partial::Ahead,
};
use contracts::{
    error::{StorageError, Tier},
    name::{Partition, PartitionNumber},
    read::{HotPage, Page},
    sequence::{Offset, OffsetRange, Watermarks},
};

/// Partitions read from cold at once.
const PARALLEL_READS: usize = 8;

impl Merge {
    /// Fetches once for the partitions that have nothing fetched. Hot is asked first, then cold for what hot
    /// no longer has: see `reader`.
    pub(super) async fn fetch(&mut self) -> Result<(), StorageError> {
        let pages = self.fetch_hot().await?;
        let (mut cold, wanted) = (Vec::new(), self.wanted());
        for (number, hot) in pages {
            let Some(partial) = self.partials.get_mut(&number) else { continue };
            let place = whereabouts(self.query.order, partial.next, hot.watermarks);
            match place {
                Whereabouts::Expired => self.expired(number, hot.watermarks)?,
                Whereabouts::Cold => {
                    let page = match partial.ahead.take() {
                        Some(Ahead::Cold(ahead)) => Either::Left(async move {
                            ahead.await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
                        }),
                        _ => {
                            let missing = missing(self.query.order, partial.next, hot.watermarks);
                            let (reader, table) = (&self.reader, &self.query.table);
                            Either::Right(reader.read_cold(table, number, missing, wanted.clone())?)
                        }
                    };
                    cold.push(async move { Ok::<_, StorageError>((number, hot.watermarks, page.await?)) });
                }
                Whereabouts::Hot | Whereabouts::Nowhere => self.take(number, hot.watermarks, hot.page)?,
            }
        }
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

    /// Retention or DELETE was faster than the read. One that asked for no offset continues at the new
    /// earliest one; one that did must learn that events are gone.
    fn expired(&mut self, number: PartitionNumber, watermarks: Watermarks) -> Result<(), StorageError> {
        let Some(partial) = self.partials.get_mut(&number) else { return Ok(()) };
        let earliest = watermarks.earliest;
        if !self.query.from.contains_key(&number) && self.starts.get(&number) == Some(&partial.next) {
            partial.next = earliest;
            self.starts.insert(number, earliest);
            self.empty.push(number);
            return Ok(());
        }
        let partition = Partition::new(self.query.table.clone(), number);
        Err(StorageError::Expired { partition, offset: partial.next, earliest })
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
            let read = self.reader.hot.read(&self.query.table, wanted, self.wanted()).await?;
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
        let order = self.query.order;
        partial.watermarks = watermarks;
        let end = partial.last(order);
        let is_at_end = |next: Offset| reaches(order, next, end);
        let gets_on = page.next != partial.next && reaches(order, page.next, partial.next);
        // A page without progress would be fetched again for ever.
        assert!(
            gets_on || is_at_end(partial.next),
            "{}/{number}: a read at {} went nowhere",
            self.query.table,
            partial.next
        );
        partial.next = if is_at_end(page.next) { end } else { page.next };
        self.unvisited -= usize::from(!std::mem::replace(&mut partial.is_visited, true));
        self.examined += page.examined;
        let mut records = page.records;
        // The position before a record is behind the end if the record is; records are in order.
        records.truncate(records.partition_point(|record| !is_at_end(order.before(record.offset))));
        self.held += records.iter().map(|record| record.event.footprint()).sum::<usize>();
        partial.keep(records);
        let is_done = is_at_end(partial.next);
        match partial.fetched.front() {
            Some(next) => self.heads.insert(head(order, next.event.timestamp_ms, number)),
            None if !is_done => self.empty.push(number),
            None => {}
        }
        if self.fetches_ahead && self.starts.len() <= PARALLEL_READS && !is_done {
            self.fetch_ahead_of(number, watermarks)?;
        }
        self.make_room();
        Ok(())
    }

    /// Begins to fetch the next page of a partition from the tier that should have it.
    fn fetch_ahead_of(
        &mut self,
        number: PartitionNumber,
        watermarks: Watermarks,
    ) -> Result<(), StorageError> {
        let (order, wanted) = (self.query.order, self.wanted());
        let Some(partial) = self.partials.get_mut(&number) else { return Ok(()) };
        let (reader, table) = (&self.reader, &self.query.table);
        partial.ahead = match whereabouts(order, partial.next, watermarks) {
            Whereabouts::Cold => {
                let missing = missing(order, partial.next, watermarks);
                let missing = partial.end.map_or(missing, |end| missing.overlap(OffsetRange::new(0, end)));
                let page = reader.read_cold(table, number, missing, wanted)?;
                Some(Ahead::Cold(AbortOnDropHandle::new(task::spawn(page))))
            }
            _ => Some(Ahead::Hot(reader.read_hot(table, number, partial.next, wanted))),
        };
        Ok(())
    }
}
