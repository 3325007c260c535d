//! Who has made what of a volume in memory, counted anew each time.

use contracts::{
    error::StorageError,
    maker::{Made, Maker},
};

use super::VolumeState;

impl VolumeState {
    /// Refuses what would make `more` than its maker may.
    pub(super) fn check_maker(
        &self,
        maker: Option<&Maker>,
        what: Made,
        more: usize,
    ) -> Result<(), StorageError> {
        let Some(maker) = maker else { return Ok(()) };
        maker.check(what, self.made(&maker.principal, what) as u64, more as u64)
    }

    fn made(&self, principal: &str, what: Made) -> usize {
        let (tables, groups) = (self.tables.values(), self.group_makers.values());
        let is_its = |made_by: Option<&str>| made_by == Some(principal);
        match what {
            Made::Tables => tables.filter(|table| is_its(table.made_by.as_deref())).count(),
            Made::Partitions => tables
                .flat_map(|table| table.partitions.values())
                .filter(|sheet| is_its(sheet.made_by.as_deref()))
                .count(),
            Made::Groups => groups.filter(|made_by| is_its(Some(made_by))).count(),
        }
    }

    /// Forgets groups without offsets, and who made those that have gone.
    pub(super) fn forget_groups(&mut self) {
        let Self { consumers, group_makers, .. } = self;
        consumers.retain(|_, offsets| !offsets.is_empty());
        group_makers.retain(|group, _| consumers.contains_key(group));
    }
}
