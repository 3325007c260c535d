//! What the volume notes of the chain of manifests.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    keys::{cf, meta},
    request::{Request, ask},
    rocksdb::Db,
};
use contracts::{error::StorageError, journal::Notes};

/// Keeps the journal's notes through the writer, without holding the tier.
#[derive(Debug)]
pub(crate) struct WriterNotes {
    pub(crate) db: Arc<Db>,
    pub(crate) writer: mpsc::Sender<Request>,
}

#[async_trait]
impl Notes for WriterNotes {
    fn store_id(&self) -> Uuid {
        self.db.store_id()
    }

    fn stored(&self) -> Result<Option<Vec<u8>>, StorageError> {
        self.db.get(cf::META, meta::CHAIN)
    }

    async fn note(&self, chain: Vec<u8>, store_id: Option<Uuid>) -> Result<(), StorageError> {
        let mut pairs = vec![(meta::CHAIN, chain)];
        pairs.extend(store_id.map(|id| (meta::STORE_ID, id.as_bytes().to_vec())));
        ask(&self.writer, |reply| Request::Remember { pairs, reply }).await
    }
}
