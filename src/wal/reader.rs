//! Reading a log at open: what lies in the directory, and the bytes of its segments. Nothing is changed
//! on disk, so that reading again, after a crash in the middle of an open, gives the same.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    LogPosition,
    frame::{FrameRead, Identity, read_frame},
    replay::{RecoveredLog, RecoveryPlace, replay},
    segment::{SEGMENT_DATA_START, SegmentName, decode_header, segment_path, temp_path},
    writer::Predecessor,
};
use crate::{
    error::{Error, Result},
    ids::{SegmentNumber, ShardId},
    storage::{FileKind, OpenMode, Storage, read_exact_at},
};

/// One segment file in memory.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) number: SegmentNumber,
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    /// What the header says, or what should stand there and what does.
    pub(super) header: Result<Identity, (String, String)>,
    pub(super) start: Option<Start>,
}

/// An intact start frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) predecessor: Option<Predecessor>,
    pub(super) checksum: u64,
    pub(super) end: u64,
}

/// Reads a shard's log from segment `floor` on (what is before it, the manifest says, is flushed). A missing
/// directory is an empty log.
///
/// A log is the longest chain of intact frames; see `replay` for where it ends. `manifest_synced` is a position
/// that the manifest states as synced, if it does.
///
/// # Errors
/// `Corruption`, with file and offset, when the chain breaks before a position that is known to have been synced,
/// or when something that was durable before its first use is damaged (a segment's header, a whole file).
/// `Invalid` for a log of a newer version. `Io` when a file cannot be read.
pub fn read_log(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    shard: ShardId,
    floor: SegmentNumber,
    manifest_synced: Option<LogPosition>,
) -> Result<RecoveredLog> {
    let listing = list(&**storage, dir)?;
    let mut images = Vec::new();
    let mut leftovers = Vec::new();
    let mut highest_segment = SegmentNumber(floor.get().saturating_sub(1));
    for name in listing.ours {
        highest_segment = highest_segment.max(name.number());
        match name {
            SegmentName::Segment(number) if number >= floor => {
                images.push(load(&**storage, dir, shard, number)?);
            }
            SegmentName::Segment(number) => leftovers.push(segment_path(dir, number)),
            SegmentName::Temp(number) => leftovers.push(temp_path(dir, number)),
        }
    }
    images.sort_by_key(|image| image.number);
    let place = RecoveryPlace {
        storage: Arc::clone(storage),
        dir: dir.to_owned(),
        shard,
        highest_segment,
        leftovers,
        strangers: listing.strangers,
    };
    replay(&images, floor, manifest_synced.unwrap_or_default(), place)
}

struct Listing {
    ours: Vec<SegmentName>,
    strangers: Vec<PathBuf>,
}

fn list(storage: &dyn Storage, dir: &Path) -> Result<Listing> {
    let mut listing = Listing { ours: Vec::new(), strangers: Vec::new() };
    let entries = match storage.read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(listing),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    for entry in entries {
        match SegmentName::parse(&entry.name) {
            Some(name) if entry.kind == FileKind::File => listing.ours.push(name),
            _ => listing.strangers.push(dir.join(entry.name)),
        }
    }
    Ok(listing)
}

fn load(storage: &dyn Storage, dir: &Path, shard: ShardId, number: SegmentNumber) -> Result<Image> {
    let path = segment_path(dir, number);
    let bytes = read_file(storage, &path).map_err(|error| Error::io("read", &path, error))?;
    let header = decode_header(&bytes, &path, shard, number)?;
    let start = match &header {
        Ok(identity) => read_start(&bytes, *identity, &path)?,
        Err(_) => None,
    };
    Ok(Image { number, path, bytes, header, start })
}

fn read_file(storage: &dyn Storage, path: &Path) -> std::io::Result<Bytes> {
    let file = storage.open(path, OpenMode::Read)?;
    let len = usize::try_from(file.len()?).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    // NOTE: the length is the file's own, not one that its content claims; a sparse giant still fails politely.
    Vec::<u8>::new().try_reserve_exact(len).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    // NOTE: memory of so many zeroes comes without being touched.
    let mut bytes = vec![0; len];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes.into())
}

/// The segment's start frame, if it is intact.
fn read_start(bytes: &[u8], identity: Identity, path: &Path) -> Result<Option<Start>> {
    let FrameRead::Intact(frame) = read_frame(bytes, SEGMENT_DATA_START, identity) else {
        return Ok(None);
    };
    // The checksum is right, so this is what was written: no tear.
    let predecessor = frame
        .predecessor()
        .map_err(|found| Error::corruption(path, SEGMENT_DATA_START, "a start frame", found))?;
    Ok(Some(Start { predecessor, checksum: frame.checksum, end: frame.end }))
}
