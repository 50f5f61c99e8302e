//! The corpus of the fuzz target `wal_segment`, as an ordinary test.

#![allow(clippy::unwrap_used)]

mod segment;

use std::{fs, path::Path};

#[test]
fn wal_segment_corpus_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("../fuzz/corpus/wal_segment");
    let Ok(files) = fs::read_dir(&corpus) else {
        println!("SKIPPED: the corpus is in the repository, not in this package");
        return;
    };
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        // Shown if the check fails.
        println!("{}", path.display());
        segment::wal_segment(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{corpus:?} is empty");
}
