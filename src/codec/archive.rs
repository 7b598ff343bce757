//! rkyv archives: flat types only, of explicit little-endian fixed-width fields, read with checked
//! access from an aligned copy, after the checksum of the record around them. The only place that names
//! rkyv's reading and writing; the archived types name their derives.

use std::path::Path;

use rkyv::{
    Archive, Serialize,
    api::high::{HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};

use crate::error::{Error, Result};

// IMPORTANT: rkyv's endianness and pointer width are cargo features that another crate of the host
// program could change; a file written so would be unreadable elsewhere. These lines stop the build.
const _: () = assert!(size_of::<rkyv::Archived<usize>>() == 4, "rkyv must use 32-bit relative pointers");
const _: () = assert!(size_of::<rkyv::Archived<Vec<u8>>>() == 8, "rkyv's vectors must be two 32-bit words");
const _: () = assert!(
    rkyv::Archived::<u32>::from_native(1).to_native() == 1
        && size_of::<rkyv::Archived<u64>>() == 8
        && size_of::<rkyv::rend::u32_le>() == 4,
    "rkyv's numbers must have their fixed width"
);

/// The bytes of `value`'s archive.
///
/// # Errors
/// `Internal` if the archive cannot be written (its parts exceed 2 GiB).
pub fn to_archive<T>(value: &T) -> Result<AlignedVec>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    rkyv::to_bytes::<rancor::Error>(value)
        .map_err(|error| Error::with_source(crate::error::ErrorKind::Internal, "cannot archive", error))
}

/// An archive in an aligned buffer of its own, checked once when it was made.
#[derive(Debug)]
pub struct OwnedArchive<T> {
    bytes: AlignedVec,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T> OwnedArchive<T>
where
    T: Archive,
    T::Archived: rkyv::Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
{
    /// Copies `bytes` to an aligned buffer and checks them as an archive of `T`.
    ///
    /// # Errors
    /// `Corruption`, naming `path` and `offset`, when they are not one.
    pub fn check(bytes: &[u8], path: &Path, offset: u64) -> Result<Self> {
        let mut aligned = AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        rkyv::access::<T::Archived, rancor::Error>(&aligned)
            .map_err(|error| Error::corruption(path, offset, "a valid archive", error))?;
        Ok(Self { bytes: aligned, of: std::marker::PhantomData })
    }

    /// The archived value.
    ///
    /// NOTE: checked again at each call: keep the reference, not the call, on a hot path.
    ///
    /// # Panics
    /// Never: the same bytes passed the same check in [`OwnedArchive::check`].
    pub fn get(&self) -> &T::Archived {
        rkyv::access::<T::Archived, rancor::Error>(&self.bytes).expect("checked when it was made")
    }

    /// The size of the archive in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Archive, Serialize)]
    struct Sample {
        number: u64,
        bytes: Vec<u8>,
    }

    #[test]
    fn archives_round_trip_and_bad_ones_are_corruption() {
        let bytes = to_archive(&Sample { number: 0x0102_0304, bytes: vec![1, 2, 3] }).unwrap();
        let path = Path::new("f");
        let archive = OwnedArchive::<Sample>::check(&bytes, path, 0).unwrap();
        assert_eq!(archive.get().number.to_native(), 0x0102_0304);
        assert_eq!(&archive.get().bytes[..], [1, 2, 3]);
        let le = bytes.windows(4).any(|four| four == [4, 3, 2, 1]);
        assert!(le, "archives are little-endian");
        for n in 0..bytes.len() {
            let error = OwnedArchive::<Sample>::check(&bytes[..n], path, 5).err();
            assert!(error.is_none_or(|e| e.corruption_at().unwrap().offset == 5));
        }
        assert!(OwnedArchive::<Sample>::check(&[0xFF; 16], path, 5).is_err());
    }
}
