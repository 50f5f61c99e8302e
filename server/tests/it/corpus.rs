//! The corpora of the server's fuzz targets, as ordinary tests.

use std::{fs, path::Path};

#[cfg(feature = "graphite")]
use metrics_server::graphite::{fuzz_line, fuzz_target};
#[cfg(feature = "disk")]
use metrics_server::store::{fuzz_block, fuzz_record};

#[cfg(feature = "graphite")]
#[test]
fn graphite_line_corpus_passes() {
    replay("graphite_line", fuzz_line);
}

#[cfg(feature = "graphite")]
#[test]
fn graphite_target_corpus_passes() {
    replay("graphite_target", fuzz_target);
}

#[cfg(feature = "influx")]
#[test]
fn influx_line_corpus_passes() {
    replay("influx_line", crate::influx::model::check);
}

#[cfg(all(feature = "graphite", feature = "influx"))]
#[test]
fn http_request_corpus_passes() {
    replay("http_request", crate::http_requests::http_request);
}

#[cfg(feature = "disk")]
#[test]
fn store_block_corpus_passes() {
    replay("store_block", fuzz_block);
}

#[cfg(feature = "disk")]
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
