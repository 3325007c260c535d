//! The role of a volume that is one of several copies of a shard.

use async_trait::async_trait;

use super::{
    RocksHot,
    keys::{cf, meta},
    request::Request,
};
use contracts::{
    error::StorageError,
    replica::{AppliedEntry, LogMark, Replica, WriterRole},
};

#[async_trait]
impl Replica for RocksHot {
    async fn log_mark(&self) -> Result<Option<LogMark>, StorageError> {
        // Answered after the batch that is on its way.
        self.ask(|reply| Request::Remember { pairs: Vec::new(), reply }).await?;
        self.db.get(cf::META, meta::LOG)?.map(|bytes| LogMark::decode(&bytes)).transpose()
    }

    fn role(&self) -> WriterRole {
        self.role.get()
    }

    fn set_role(&self, role: WriterRole) {
        self.role.set(role);
    }

    async fn apply(&self, entry: AppliedEntry) -> Result<(), StorageError> {
        self.ask(|reply| Request::Apply { entry, reply }).await
    }

    async fn confirm(&self) -> Result<(), StorageError> {
        match self.role.get() {
            WriterRole::Alone => Ok(()),
            WriterRole::Follows => Err(StorageError::Demoted),
            WriterRole::Owns(_) => self.ask(|reply| Request::Confirm { reply }).await,
        }
    }
}

#[cfg(test)]
mod tests;
