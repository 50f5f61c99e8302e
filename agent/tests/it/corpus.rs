//! The corpus of the agent's fuzz target, as an ordinary test.

use std::{fs, path::Path};

#[test]
fn statsd_packet_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/statsd_packet");
    let Ok(files) = fs::read_dir(&corpus) else {
        println!("SKIPPED: the corpus is in the repository, not in this package");
        return;
    };
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        // Shown if the check fails.
        println!("{}", path.display());
        metrics_agent::fuzz_packet(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{corpus:?} is empty");
}
