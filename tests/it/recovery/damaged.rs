//! Files of a volume that no power cut leaves as they are.

use super::copy;
use testing::{Sent, TestServer};

#[tokio::test]
async fn a_log_that_is_damaged_in_its_middle_is_refused_and_not_cut_short() {
    let mut z = TestServer::start().await;
    let mut sent = Sent::default();
    for _ in 0..20 {
        sent.append(&z, "t", 2, 50).await;
    }
    z.kill().await;
    let log = std::fs::read_dir(z.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let log = log.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap();
    let flip = || {
        let mut bytes = std::fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&log, bytes).unwrap();
    };
    flip();
    let said = z.try_run().await.unwrap_err();
    assert!(said.contains("is damaged: a whole record follows at byte"), "{said}");
    flip();
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}

#[tokio::test]
async fn a_list_of_files_that_is_torn_across_a_page_is_refused_or_nothing_is_missing() {
    const PAGE: usize = 4096;
    let mut z = TestServer::start_with(&[("hot.write_buffer_bytes", "1048576")]).await;
    let mut sent = Sent::default();
    for _ in 0..6 {
        sent.append(&z, "t", 2, 200).await;
        z.crash().await; // each start adds to the list
    }
    z.kill().await;
    let volume = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), volume.path());
    let names = std::fs::read_dir(volume.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let list = names.filter(|name| name.to_str().unwrap().starts_with("MANIFEST")).max().unwrap();
    let whole = std::fs::read(volume.path().join(&list)).unwrap();
    let mut refused = 0;
    // The page in which it ends was not written whole, or nothing of it was, or not even the one before.
    let last = whole.len() / PAGE * PAGE;
    for (kept, has_zeros) in [
        (last + (whole.len() - last) / 2, true),
        (last, true),
        (last, false),
        (last.saturating_sub(PAGE), true),
    ] {
        let mut torn = whole[..kept].to_vec();
        if has_zeros {
            torn.resize(whole.len(), 0);
        }
        copy(volume.path(), &z.data_dir());
        std::fs::write(z.data_dir().join(&list), torn).unwrap();
        match z.try_run().await {
            Ok(()) => {
                assert_eq!(
                    Sent::from_records(&z.read_all("t", "limit=1000").await),
                    sent,
                    "kept {kept} of {}",
                    whole.len()
                );
                z.kill().await;
            }
            Err(said) => {
                assert!(
                    said.contains("MANIFEST") || said.contains("damaged") || said.contains("orrupt"),
                    "{said}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "a list without its end was taken for whole each time");
    copy(volume.path(), &z.data_dir());
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}
