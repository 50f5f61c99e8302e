//! The corpora of the fuzz targets, as ordinary tests.

use std::{fs, path::Path};

use super::{client, codec, server, spool};

#[test]
fn response_decoder_corpus_passes() {
    replay("response_decoder", codec::response_decoder);
}

#[test]
fn request_parser_corpus_passes() {
    replay("request_parser", codec::request_parser);
}

#[test]
fn client_driver_corpus_passes() {
    replay("client_driver", client::client_driver);
}

#[test]
fn server_session_corpus_passes() {
    replay("server_session", server::server_session);
}

#[test]
fn spool_segment_corpus_passes() {
    replay("spool_segment", spool::spool_segment);
}

fn replay(target: &str, check: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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
