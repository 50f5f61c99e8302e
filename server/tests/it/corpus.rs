//! The corpora of the fuzz targets of `DiskStore`, as ordinary tests.

use std::{fs, path::Path};

use metrics_server::store::{fuzz_block, fuzz_record};

#[test]
fn store_block_corpus_passes() {
    replay("store_block", fuzz_block);
}

#[test]
fn store_record_corpus_passes() {
    replay("store_record", fuzz_record);
}

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let Ok(files) = fs::read_dir(&corpus) else {
        println!("SKIPPED: the corpus is in the repository, not in this package");
        return;
    };
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        // Shown if the check fails.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{corpus:?} is empty");
}
