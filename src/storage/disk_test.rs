//! The disk implementation against a real file system.

use std::{
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::PathBuf,
};

use rustix::fs::{CWD, FileType as NodeType, Mode};
use tempfile::TempDir;

use super::*;
use crate::storage::{read_exact_at, write_all_at};

fn setup() -> (DiskStorage, TempDir) {
    (DiskStorage::new(), tempfile::tempdir().unwrap())
}

fn make_fifo(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("pipe");
    rustix::fs::mknodat(CWD, &path, NodeType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

#[test]
fn what_is_written_is_read_back() {
    let (disk, dir) = setup();
    let path = dir.path().join("file");
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    write_all_at(&*file, b"hello", 3).unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.len().unwrap(), 8);

    let again = disk.open(&path, OpenMode::Read).unwrap();
    let mut buf = [9; 8];
    read_exact_at(&*again, &mut buf, 0).unwrap();
    assert_eq!(&buf, b"\0\0\0hello");
    assert_eq!(again.read_at(&mut buf, 8).unwrap(), 0, "the end");
    assert_eq!(read_exact_at(&*again, &mut buf, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(again.write_at(b"x", 0).is_err(), "opened to read");

    let more = disk.open(&path, OpenMode::ReadWrite).unwrap();
    more.truncate(5).unwrap();
    assert_eq!(again.len().unwrap(), 5);
}

#[test]
fn open_modes_tell_present_and_absent_apart() {
    let (disk, dir) = setup();
    let path = dir.path().join("file");
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(disk.open(&path, mode).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    disk.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(disk.open(&path, OpenMode::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_read_that_must_not_wait_gives_cached_bytes_or_says_so() {
    let (disk, dir) = setup();
    let file = disk.open(&dir.path().join("file"), OpenMode::CreateNew).unwrap();
    let data: Vec<u8> = (0..10_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    write_all_at(&*file, &data, 0).unwrap();
    let mut buf = vec![0; 5_000];
    match file.read_at_nowait(&mut buf, 4_000) {
        Ok(n) => assert_eq!(buf[..n], data[4_000..4_000 + n]),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    assert_eq!(file.read_at_nowait(&mut buf, 10_000).unwrap_or(0), 0, "nothing behind the end");
    let refused = file.read_at_nowait(&mut buf, u64::MAX).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "not the current position");
}

#[test]
fn a_file_system_that_cannot_promise_not_to_wait_says_would_block() {
    // /proc refuses RWF_NOWAIT, as some real file systems do.
    let disk = DiskStorage::new();
    let file = disk.open(Path::new("/proc/self/status"), OpenMode::Read).unwrap();
    let mut buf = [0; 16];
    assert_eq!(file.read_at_nowait(&mut buf, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(file.read_at(&mut buf, 0).unwrap() > 0);
}

#[test]
fn allocated_bytes_are_zero_and_written_ones_stay() {
    let (disk, dir) = setup();
    let file = disk.open(&dir.path().join("file"), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, b"abc", 0).unwrap();
    file.allocate(0).unwrap();
    file.allocate(100_000).unwrap();
    assert_eq!(file.len().unwrap(), 100_000);
    file.allocate(10).unwrap();
    assert_eq!(file.len().unwrap(), 100_000, "never shorter");
    let mut buf = vec![1; 100_000];
    read_exact_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(&buf[..3], b"abc");
    assert!(buf[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn space_is_taken_by_writing_where_it_cannot_be_reserved() {
    let (_, dir) = setup();
    let path = dir.path().join("file");
    fs::write(&path, b"abc").unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    extend_with_zeroes(&file, 150_000).unwrap();
    extend_with_zeroes(&file, 10).unwrap();
    let found = fs::read(&path).unwrap();
    assert_eq!((found.len(), &found[..3]), (150_000, &b"abc"[..]));
    assert!(found[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn only_the_owner_may_read_what_is_made() {
    let (disk, dir) = setup();
    let deep = dir.path().join("a/b");
    disk.create_dir_all(&deep).unwrap();
    disk.create_dir_all(&deep).unwrap();
    disk.open(&deep.join("file"), OpenMode::CreateNew).unwrap();
    drop(disk.try_lock(&deep.join("LOCK")).unwrap());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path().join("a")), 0o700);
    assert_eq!(mode(deep.clone()), 0o700);
    assert_eq!(mode(deep.join("file")), 0o600);
    assert_eq!(mode(deep.join("LOCK")), 0o600);
}

#[test]
fn a_directory_is_listed_with_kinds() {
    let (disk, dir) = setup();
    disk.create_dir_all(&dir.path().join("dir")).unwrap();
    disk.open(&dir.path().join("file"), OpenMode::CreateNew).unwrap();
    symlink(dir.path().join("file"), dir.path().join("link")).unwrap();
    make_fifo(&dir);
    let mut found: Vec<_> =
        disk.read_dir(dir.path()).unwrap().into_iter().map(|entry| (entry.name, entry.kind)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("dir", FileKind::Dir),
        ("file", FileKind::File),
        ("link", FileKind::Other),
        ("pipe", FileKind::Other),
    ];
    assert_eq!(found, expected.map(|(name, kind)| (name.into(), kind)));
    assert_eq!(disk.read_dir(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_rename_replaces_and_a_removed_file_stays_readable() {
    let (disk, dir) = setup();
    let (new, old) = (dir.path().join("new"), dir.path().join("old"));
    write_all_at(&*disk.open(&new, OpenMode::CreateNew).unwrap(), b"new", 0).unwrap();
    write_all_at(&*disk.open(&old, OpenMode::CreateNew).unwrap(), b"old", 0).unwrap();
    disk.rename(&new, &old).unwrap();
    disk.sync_dir(dir.path()).unwrap();
    let file = disk.open(&old, OpenMode::Read).unwrap();
    disk.remove_file(&old).unwrap();
    assert_eq!(disk.remove_file(&old).unwrap_err().kind(), io::ErrorKind::NotFound);
    let mut buf = [0; 3];
    read_exact_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(&buf, b"new");
}

#[test]
fn a_lock_holds_against_this_process_and_through_a_linked_directory() {
    let (disk, dir) = setup();
    disk.create_dir_all(&dir.path().join("data")).unwrap();
    symlink(dir.path().join("data"), dir.path().join("alias")).unwrap();
    let path = dir.path().join("data/LOCK");
    let held = disk.try_lock(&path).unwrap();
    for other in [path.clone(), dir.path().join("alias/LOCK")] {
        assert_eq!(disk.try_lock(&other).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    drop(held);
    disk.try_lock(&path).unwrap();
}

#[test]
fn a_shared_lock_is_shared_and_neither_makes_nor_writes_its_file() {
    let (disk, dir) = setup();
    let path = dir.path().join("LOCK");
    assert_eq!(disk.try_lock_shared(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!path.exists());
    let alone = disk.try_lock(&path).unwrap();
    assert_eq!(disk.try_lock_shared(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(alone);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let (first, second) = (disk.try_lock_shared(&path).unwrap(), disk.try_lock_shared(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    drop(first);
    assert_eq!(disk.try_lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(second);
    disk.try_lock(&path).unwrap();
}

#[test]
fn what_is_not_a_regular_file_is_refused_with_its_kind() {
    let (disk, dir) = setup();
    let at = |name: &str| dir.path().join(name);
    disk.create_dir_all(&at("dir")).unwrap();
    disk.open(&at("file"), OpenMode::CreateNew).unwrap();
    symlink(at("file"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    make_fifo(&dir);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (name, kind) in [
        ("dir", "a directory"),
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ] {
        let path = at(name);
        for error in [
            disk.open(&path, OpenMode::Read).unwrap_err(),
            disk.open(&path, OpenMode::ReadWrite).unwrap_err(),
            disk.try_lock(&path).unwrap_err(),
            disk.try_lock_shared(&path).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
            assert_eq!(error.to_string(), format!("it is {kind}, not a regular file"));
        }
        let taken = disk.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists, "{name}");
    }
    assert!(disk.open(Path::new("/dev/null"), OpenMode::Read).unwrap_err().to_string().contains("a device"));
    assert!(!at("nowhere").exists(), "nothing was created through the link");
    assert!(disk.sync_dir(&at("pipe")).is_err(), "not waited for");
}
