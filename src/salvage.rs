//! `zombi salvage`: prints what a volume holds beyond the chain of manifests, as events that can be posted.
//! For a volume that was refused, or left behind by a takeover.
//!
//! The volume is only read, and not upgraded; no server may use it meanwhile. The chain is only read, too.

use std::{io::Write, sync::Arc};

use crate::{
    http::encode,
    inspect::{self, InspectError},
    settings::Settings,
};
use cold_s3::{backup::Beyond, s3::Objects};
use contracts::{
    catalog::TableStatus,
    clock::SystemClock,
    erasure::{Erasure, ErasureStatus},
    event::Record,
    name::{Partition, TableName},
    read::ReadLimit,
    sequence::Watermarks,
};
use hot_rocksdb::{at_rest::VolumeAtRest, options::OpenOptions};

/// How much of the volume is read at once.
const CHUNK: ReadLimit = ReadLimit { records: 1000, bytes: 4 << 20 };

/// What was printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// The table; `None` if no table has anything.
    pub(crate) table: Option<TableName>,
    /// How many events.
    pub(crate) events: u64,
    /// The erasures that the volume has noted, that are not done, and that the chain does not list.
    pub(crate) erasures: Vec<Erasure>,
    /// Whether a bucket was looked at. Otherwise all that the volume does not know to be flushed was printed.
    pub(crate) has_bucket: bool,
}

/// A volume, and the chain that it is compared with, if there is a bucket.
struct Salvage<'a> {
    volume: VolumeAtRest,
    beyond: Option<Beyond<'a>>,
}

/// Prints the events of one table that only the volume has.
///
/// # Errors
/// [`InspectError::Usage`] if several tables have some and none is named; [`InspectError::Storage`] if the
/// volume or the bucket cannot be read.
pub(crate) async fn salvage(
    settings: &Settings,
    table: Option<TableName>,
    out: &mut dyn Write,
) -> Result<Salvaged, InspectError> {
    let options = OpenOptions {
        path: settings.process.data_dir.clone(),
        durability: settings.process.durability,
        keys: settings.keys,
        hot: settings.hot,
        max_open_files: 256,
    };
    let volume = VolumeAtRest::open(&options, SystemClock::shared())?;
    let bucket: Option<Objects> = match settings.s3.bucket {
        Some(_) => Some(inspect::objects(settings).await?),
        None => None,
    };
    let beyond = match &bucket {
        Some(objects) => Some(Beyond::of(objects).await?),
        None => None,
    };
    let has_bucket = beyond.is_some();
    let mut salvage = Salvage { volume, beyond };
    let erasures = salvage.unlisted_erasures()?;
    let Some(table) = salvage.choose(table).await? else {
        return Ok(Salvaged { table: None, events: 0, erasures, has_bucket });
    };
    let mut events = 0;
    let mut line = Vec::new();
    salvage
        .each(&table, &mut |record| {
            line.clear();
            encode::record(&mut line, record);
            line.push(b'\n');
            events += 1;
            out.write_all(&line)?;
            Ok(true)
        })
        .await?;
    Ok(Salvaged { table: Some(table.name.clone()), events, erasures, has_bucket })
}

impl Salvage<'_> {
    /// The erasures that nobody else will carry out.
    fn unlisted_erasures(&self) -> Result<Vec<Erasure>, InspectError> {
        let mut noted = self.volume.erasures()?;
        noted.retain(|erasure| {
            let is_listed = self.beyond.as_ref().is_some_and(|chain| chain.lists(erasure.id));
            erasure.status() != ErasureStatus::Done && !is_listed
        });
        Ok(noted)
    }

    /// The table to print: the one that is named, or the only one that has something.
    async fn choose(&mut self, named: Option<TableName>) -> Result<Option<Arc<TableStatus>>, InspectError> {
        let tables = self.volume.tables();
        if let Some(name) = named {
            let found = tables.visible().find(|table| table.name == name);
            return match found {
                Some(table) => Ok(Some(Arc::clone(table))),
                None => Err(InspectError::NotFound(format!("table {name} on this volume"))),
            };
        }
        let mut with_some = Vec::new();
        for table in tables.visible() {
            let mut has_some = false;
            self.each(table, &mut |_| {
                has_some = true;
                Ok(false)
            })
            .await?;
            if has_some {
                with_some.push(Arc::clone(table));
            }
        }
        if with_some.len() > 1 {
            let names: Vec<String> = with_some.iter().map(|table| table.name.to_string()).collect();
            let names = names.join(", ");
            return Err(InspectError::Usage(format!(
                "several tables have events here: {names}. Choose --table"
            )));
        }
        Ok(with_some.pop())
    }

    /// Passes a table's events that only the volume has to `take`, until it wants no more.
    async fn each(
        &mut self,
        table: &TableStatus,
        take: &mut dyn FnMut(&Record) -> Result<bool, InspectError>,
    ) -> Result<(), InspectError> {
        for (partition, status) in table.named_partitions() {
            if !self.each_of(&partition, status.watermarks, take).await? {
                break;
            }
        }
        Ok(())
    }

    /// The same for one partition; whether more is wanted.
    async fn each_of(
        &mut self,
        partition: &Partition,
        watermarks: Watermarks,
        take: &mut dyn FnMut(&Record) -> Result<bool, InspectError>,
    ) -> Result<bool, InspectError> {
        // Of a bucket that holds another store nothing is taken for known.
        let is_its =
            self.beyond.as_ref().is_none_or(|chain| chain.store_id() == Some(self.volume.store_id()));
        let known_upto = if is_its { watermarks.flushed } else { 0 };
        let mut next = if self.beyond.is_some() { watermarks.low } else { watermarks.flushed };
        while next < watermarks.next {
            let Some(hot) = self.volume.read(partition, next, CHUNK)? else { break };
            if hot.page.next <= next {
                break;
            }
            next = hot.page.next;
            let mut records = hot.page.records;
            // Nothing of them is left that could be posted.
            records.retain(|record| !record.event.is_erased());
            if let Some(chain) = &mut self.beyond {
                records = chain.unknown(partition, records, known_upto).await?;
            }
            for record in &records {
                if !take(record)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
