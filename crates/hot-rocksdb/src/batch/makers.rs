//! Who makes what a batch makes: refuses what is over a maker's quota, and counts the rest.

use std::{collections::BTreeSet, sync::Arc};

use super::Batch;
use crate::keys::{self, PartitionKey, TableId, cf};
use contracts::{
    error::StorageError,
    maker::{Made, Maker},
    name::{GroupName, PartitionNumber},
};

impl Batch<'_> {
    /// Refuses a request that would make `more` than its maker may, with what this batch has made for it.
    pub(super) fn check_maker(
        &self,
        maker: Option<&Maker>,
        what: Made,
        more: usize,
    ) -> Result<(), StorageError> {
        let Some(maker) = maker.filter(|_| more > 0) else { return Ok(()) };
        let stored = self.volume.catalog.read().made().of(&maker.principal, what);
        let made = stored + self.made.of(&maker.principal, what);
        maker.check(what, made.max(0).unsigned_abs(), more as u64)
    }

    /// Adds partitions that somebody has made. Those that nobody has are added with their first event.
    pub(super) fn make_partitions(
        &mut self,
        table: TableId,
        numbers: BTreeSet<PartitionNumber>,
        made_by: Option<&Arc<str>>,
    ) {
        let Some(made_by) = made_by else { return };
        for partition in numbers {
            self.state(PartitionKey { table, partition }).made_by = Some(Arc::clone(made_by));
            self.made.replace(Made::Partitions, None, Some(made_by));
        }
    }

    /// Sets who made a consumer group; `None` when it has gone, too.
    pub(super) fn set_group_maker(&mut self, group: &GroupName, made_by: Option<Arc<str>>) {
        let before = self.group_maker(group);
        self.made.replace(Made::Groups, before.as_ref(), made_by.as_ref());
        let (family, key) = (self.volume.db.family(cf::META), keys::group_maker(group));
        match &made_by {
            Some(made_by) => self.writes.put_cf(family, key, made_by.as_bytes()),
            None => self.writes.delete_cf(family, key),
        }
        self.change.group_makers.insert(group.clone(), made_by);
    }

    /// Who made a consumer group, with the changes of this batch.
    fn group_maker(&self, group: &GroupName) -> Option<Arc<str>> {
        match self.change.group_makers.get(group) {
            Some(staged) => staged.clone(),
            None => self.volume.catalog.read().consumers().maker(group).cloned(),
        }
    }
}
