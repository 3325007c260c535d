//! `zombi salvage`: prints what a volume holds beyond the chain of manifests, as events that can be posted,
//! or counts it. For a volume that was refused, or left behind by a takeover; of a pod of a cluster for those
//! of its shards.
//!
//! The volume is only read, and not upgraded; no server may use it meanwhile. The chain is only read, too.

use std::{io::Write, path::Path, sync::Arc};

use crate::{
    cluster::volumes,
    http::encode,
    inspect::{self, InspectError},
    server::engine::{VolumeAtRest, open_at_rest},
    settings::Settings,
};
use cold_s3::{backup::Beyond, cluster::ShardPlace, place::ObjectPlace, s3::Objects, watcher::Watcher};
use contracts::{
    catalog::TableStatus,
    erasure::{Erasure, ErasureStatus},
    event::Record,
    name::{Partition, TableName},
    read::ReadLimit,
    sequence::Watermarks,
    shards::Shard,
};

/// How much of the volume is read at once.
const CHUNK: ReadLimit = ReadLimit { records: 1000, bytes: 4 << 20 };

/// What to print.
#[derive(Debug)]
pub(crate) struct SalvageOptions {
    /// Of which table; all of them if events are only counted, or else the only one that has some.
    pub(crate) table: Option<TableName>,
    /// Only count the events.
    pub(crate) dry_run: bool,
}

/// What was printed or counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// How many events of which table: of one at most if they were printed; none if no table has anything.
    pub(crate) tables: Vec<(TableName, u64)>,
    /// The erasures that the volume has noted, that are not done, and that the chain does not list.
    pub(crate) erasures: Vec<Erasure>,
    /// Whether a bucket was looked at. Otherwise all that the volume does not know to be flushed was printed.
    pub(crate) has_bucket: bool,
}

/// A volume, and the chain that it is compared with, if there is a bucket.
struct Salvage<'a> {
    volume: VolumeAtRest,
    beyond: Option<Beyond<'a>>,
    watcher: &'a dyn Watcher,
}

/// Prints the events of one table that only the volume has, or one of the volumes of a pod; or counts those
/// of all tables.
///
/// # Errors
/// [`InspectError::Usage`] if one table is to be printed, several have some and none is named;
/// [`InspectError::Storage`] if a volume or the bucket cannot be read.
pub(crate) async fn salvage(
    settings: &Settings,
    options: SalvageOptions,
    watcher: &dyn Watcher,
    out: &mut dyn Write,
) -> Result<Salvaged, InspectError> {
    let bucket: Option<Objects> = match settings.s3.bucket {
        Some(_) => Some(inspect::objects(settings).await?),
        None => None,
    };
    let data_dir = &settings.process.data_dir;
    let unread = |error| InspectError::NotFound(format!("volume in {}: {error}", data_dir.display()));
    let volumes = volumes::found(data_dir).map_err(unread)?;
    let of_shard = |shard: Option<Shard>| Some(ShardPlace::new(bucket.as_ref()?, shard?));
    let shards: Vec<Option<ShardPlace<'_>>> = volumes.iter().map(|(_, shard)| of_shard(*shard)).collect();
    let mut opened = Vec::with_capacity(volumes.len());
    let mut erasures = Vec::new();
    for ((path, _), shard) in volumes.iter().zip(&shards) {
        let place: Option<&dyn ObjectPlace> = match (shard, &bucket) {
            (Some(shard), _) => Some(shard),
            (None, Some(objects)) => Some(objects),
            (None, None) => None,
        };
        let salvage = Salvage::open(settings, path, place, watcher).await?;
        erasures.extend(salvage.unlisted_erasures()?);
        opened.push(salvage);
    }
    let tables = match options.dry_run {
        true => count(opened, options.table).await?,
        false => print(opened, options.table, out).await?.into_iter().collect(),
    };
    Ok(Salvaged { tables, erasures, has_bucket: bucket.is_some() })
}

/// Prints the events of the table that is named, or of the only one that has some; how many they are.
async fn print(
    opened: Vec<Salvage<'_>>,
    named: Option<TableName>,
    out: &mut dyn Write,
) -> Result<Option<(TableName, u64)>, InspectError> {
    let Some((mut salvage, table)) = choose(opened, named).await? else { return Ok(None) };
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
    Ok(Some((table.name.clone(), events)))
}

/// Counts the events of the table that is named, or of each that has some.
async fn count(
    opened: Vec<Salvage<'_>>,
    named: Option<TableName>,
) -> Result<Vec<(TableName, u64)>, InspectError> {
    let mut counts = Vec::new();
    for mut salvage in opened {
        let tables = salvage.volume.tables();
        for table in tables.visible().filter(|table| named.as_ref().is_none_or(|name| *name == table.name)) {
            let mut events = 0;
            salvage
                .each(table, &mut |_| {
                    events += 1;
                    Ok(true)
                })
                .await?;
            if events > 0 || named.is_some() {
                counts.push((table.name.clone(), events));
            }
        }
    }
    match named {
        Some(name) if counts.is_empty() => Err(no_table(&name)),
        _ => {
            counts.sort();
            Ok(counts)
        }
    }
}

fn no_table(name: &TableName) -> InspectError {
    InspectError::NotFound(format!("table {name} on this volume"))
}

/// The table to print and where it is: the one that is named, or the only one that has something.
async fn choose<'a>(
    opened: Vec<Salvage<'a>>,
    named: Option<TableName>,
) -> Result<Option<(Salvage<'a>, Arc<TableStatus>)>, InspectError> {
    let mut with_some = Vec::new();
    let mut chosen = None;
    for mut salvage in opened {
        if let Some(name) = &named {
            let table = salvage.volume.tables().visible().find(|table| table.name == *name).cloned();
            if let Some(table) = table {
                return Ok(Some((salvage, table)));
            }
            continue;
        }
        let tables = salvage.with_some().await?;
        with_some.extend(tables.iter().map(|table| table.name.to_string()));
        if let Some(table) = tables.into_iter().next() {
            chosen = Some((salvage, table));
        }
    }
    if let Some(name) = named {
        return Err(no_table(&name));
    }
    if with_some.len() > 1 {
        with_some.sort();
        let names = with_some.join(", ");
        return Err(InspectError::Usage(format!("several tables have events here: {names}. Choose --table")));
    }
    Ok(chosen)
}

impl<'a> Salvage<'a> {
    /// Opens a volume, and reads the chain that it is compared with.
    async fn open(
        settings: &Settings,
        path: &Path,
        place: Option<&'a dyn ObjectPlace>,
        watcher: &'a dyn Watcher,
    ) -> Result<Self, InspectError> {
        let volume = open_at_rest(settings, path)?;
        let beyond = match place {
            Some(place) => Some(Beyond::of(place).await?),
            None => None,
        };
        Ok(Self { volume, beyond, watcher })
    }

    /// The erasures that nobody else will carry out.
    fn unlisted_erasures(&self) -> Result<Vec<Erasure>, InspectError> {
        let mut noted = self.volume.erasures()?;
        noted.retain(|erasure| {
            let is_listed = self.beyond.as_ref().is_some_and(|chain| chain.lists(erasure.id));
            erasure.status() != ErasureStatus::Done && !is_listed
        });
        Ok(noted)
    }

    /// The tables that have something.
    async fn with_some(&mut self) -> Result<Vec<Arc<TableStatus>>, InspectError> {
        let tables = self.volume.tables();
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
        Ok(with_some)
    }

    /// Passes a table's events that only the volume has to `take`, until it wants no more.
    async fn each(
        &mut self,
        table: &TableStatus,
        take: &mut dyn FnMut(&Record) -> Result<bool, InspectError>,
    ) -> Result<(), InspectError> {
        let is_compared = self.beyond.is_some();
        let sizes = table.partitions.iter();
        let sizes = sizes.map(|status| if is_compared { status.hot_bytes } else { status.unflushed_bytes });
        self.watcher.begins(table.name.as_str(), sizes.sum());
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
            self.watcher.did(hot.stored_bytes);
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
