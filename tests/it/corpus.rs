//! The corpora of the fuzz targets, as ordinary tests.

use std::{fs, path::Path};

use crate::invariants;

#[test]
fn response_decoder_stands_its_corpus() {
    replay("response_decoder", invariants::response_decoder);
}

#[test]
fn request_parser_stands_its_corpus() {
    replay("request_parser", invariants::request_parser);
}

#[test]
fn client_driver_stands_its_corpus() {
    replay("client_driver", crate::client_driver::client_driver);
}

#[test]
fn server_session_stands_its_corpus() {
    replay("server_session", crate::server_session::server_session);
}

#[cfg(feature = "spool")]
#[test]
fn spool_segment_stands_its_corpus() {
    replay("spool_segment", crate::spool_segment::spool_segment);
}

fn replay(target: &str, check: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join("Cargo.toml.orig").exists() {
        crate::skipped(target, "its corpus is in the repository, not in this package");
        return;
    }
    let folder = root.join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
        let path = file.unwrap().path();
        // Shown if the check fails.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{folder:?} is empty");
}
