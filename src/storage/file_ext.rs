//! Whole reads and writes: over short counts and interruptions, which [`StorageFile`] passes on.

use std::io;

use super::StorageFile;

/// Fills `buf` from `offset` on, over short reads and interruptions.
///
/// # Errors
/// `UnexpectedEof` when the file ends first, or the file system's error.
pub fn read_exact_at(file: &dyn StorageFile, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = buf.split_at_mut(n).1;
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `buf` at `offset`, over short writes and interruptions.
///
/// # Errors
/// `WriteZero` when the file takes nothing more, or the file system's error; part may be written then.
pub fn write_all_at(file: &dyn StorageFile, buf: &[u8], offset: u64) -> io::Result<()> {
    write_all(buf, offset, |buf, offset| file.write_at(buf, offset))
}

/// The same, and what was written is durable on return.
///
/// # Errors
/// `WriteZero` when the file takes nothing more, or the file system's error; part may be written then.
pub fn write_all_at_synced(file: &dyn StorageFile, buf: &[u8], offset: u64) -> io::Result<()> {
    write_all(buf, offset, |buf, offset| file.write_at_synced(buf, offset))
}

fn write_all(
    mut buf: &[u8],
    mut offset: u64,
    write: impl Fn(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buf.is_empty() {
        match write(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = buf.split_at(n).1;
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::{
        OpenMode, Storage,
        sim::{Errno, Fault, FaultRule, OpKind, SimStorage},
    };

    #[test]
    fn short_counts_and_interruptions_are_gone_over() {
        let data: Vec<u8> = (0..=255).collect();
        for seed in 0..50 {
            let sim = SimStorage::new(seed);
            let file = sim.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
            for kind in [OpKind::Read, OpKind::Write] {
                sim.fail(FaultRule::new(Fault::Fail(Errno::INTR)).on(&[kind]).nth(1));
                sim.fail(FaultRule::new(Fault::Short).on(&[kind]));
            }
            write_all_at(&*file, &data, 3).unwrap();
            let mut buf = vec![1; 259];
            read_exact_at(&*file, &mut buf, 0).unwrap();
            assert_eq!(buf, [vec![0; 3], data.clone()].concat(), "seed {seed}");
            let end = read_exact_at(&*file, &mut buf, 1).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn other_errors_end_a_read_or_write() {
        let sim = SimStorage::new(1);
        let file = sim.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
        sim.fail(FaultRule::new(Fault::Fail(Errno::IO)));
        assert!(write_all_at(&*file, b"x", 0).is_err());
        assert!(read_exact_at(&*file, &mut [0], 0).is_err());
        assert_eq!(sim.operations(), 3, "nothing is repeated");
        sim.clear_faults();
        sim.set_capacity(Some(2));
        assert_eq!(write_all_at(&*file, b"xyz", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
