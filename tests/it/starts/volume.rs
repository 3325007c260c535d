//! Where the volume is: a directory that is made, in one that is there. What cannot be is said with its path.

use std::{fs, path::Path};

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::{FAILED, USAGE};
use testing::process::Start;

async fn is_refused_with_its_path(what: &str, data_dir: &Path) {
    let ended = Start::serve(data_dir).set("host", "127.0.0.1").ended().await;
    assert!([Some(FAILED), Some(USAGE)].contains(&ended.code), "{what}: {}", ended.said);
    let path = data_dir.display().to_string();
    assert!(ended.said.contains(&path), "{what}: nothing of {path} in:\n{}", ended.said);
}

#[tokio::test]
async fn a_data_directory_is_made_but_not_what_it_should_be_in() {
    let root = TempDir::new().unwrap();
    let data_dir = root.path().join("db");
    let process = Start::serve(&data_dir).set("host", "127.0.0.1").ready().await;
    assert_eq!(
        process.post(process.main(), "/tables/t", &json!({"payload": 1})).await.0,
        StatusCode::CREATED
    );
    assert_eq!(process.terminate().await, Some(0));
    assert!(data_dir.join("CURRENT").exists());

    // A mount that is missing, say.
    for missing in ["missing/db", "missing/a/b/db"] {
        is_refused_with_its_path("a parent that is not there", &root.path().join(missing)).await;
    }
    assert!(!root.path().join("missing").exists(), "it was made");
    // A file where a directory is due, and where its parent is due.
    fs::write(root.path().join("file"), "x").unwrap();
    is_refused_with_its_path("a file", &root.path().join("file")).await;
    is_refused_with_its_path("a file for a parent", &root.path().join("file/db")).await;
    assert_eq!(fs::read(root.path().join("file")).unwrap(), b"x");
    // A link that leads nowhere.
    std::os::unix::fs::symlink(root.path().join("nowhere/db"), root.path().join("link")).unwrap();
    is_refused_with_its_path("a link that leads nowhere", &root.path().join("link")).await;
    assert!(!root.path().join("nowhere").exists());
}

#[tokio::test]
async fn a_volume_that_may_not_be_written_is_refused_with_its_path() {
    let root = TempDir::new().unwrap();
    let data_dir = root.path().join("db");
    fs::create_dir(&data_dir).unwrap();
    let read_only = |is: bool| {
        let mut permissions = fs::metadata(&data_dir).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, if is { 0o500 } else { 0o700 });
        fs::set_permissions(&data_dir, permissions).unwrap();
    };
    read_only(true);
    if fs::write(data_dir.join("probe"), "").is_ok() {
        eprintln!("SKIPPED: this user may write everywhere");
    } else {
        is_refused_with_its_path("a directory that may not be written", &data_dir).await;
    }
    read_only(false);
}

#[tokio::test]
async fn what_cannot_be_read_of_a_volume_is_said_with_its_path() {
    let root = TempDir::new().unwrap();
    // A directory is where a file is due.
    for file in ["SYNCED", "000001.log"] {
        let data_dir = root.path().join(format!("with {file}"));
        fs::create_dir_all(data_dir.join(file)).unwrap();
        is_refused_with_its_path(file, &data_dir).await;
    }
    // Another program's database.
    let data_dir = root.path().join("other");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &data_dir, ["other"]).unwrap());
    is_refused_with_its_path("another program's database", &data_dir).await;
}
