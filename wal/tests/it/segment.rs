//! The check of the fuzz target `wal_segment`: a log opens whatever the bytes of its segment are.

use std::path::Path;

use metrics_wal::{
    Error, Event, Options, RECORD_HEADER_BYTES, Record, Wal, salvage, testing::FaultyFs,
};

/// Opens a log whose only segment has these bytes, reads it in both ways, appends to it, and opens it again.
pub(crate) fn wal_segment(input: &[u8]) {
    let mut salvaged = Vec::new();
    let unreadable = salvage(input, |record| {
        salvaged.push(record.payload.to_vec());
        true
    });
    let used: usize = salvaged.iter().map(|payload| RECORD_HEADER_BYTES + payload.len()).sum();
    assert!(used + unreadable <= input.len());

    let fs = FaultyFs::new();
    let dir = Path::new("/log");
    fs.put(dir.join("00000000000000000000.log"), input);
    let mut log = match Wal::open(fs.clone(), dir, Options::new()) {
        Ok(log) => log,
        Err(failed) => {
            assert!(matches!(failed.error, Error::NewerVersion { .. }), "{failed}");
            return;
        }
    };
    let stats = log.stats();
    assert!(stats.bytes + stats.torn_bytes <= input.len() as u64);
    let next = log.next();

    let mut scanned = Vec::new();
    let mut expected = 0;
    log.scan(0, |record| {
        expected = check(&record, expected);
        assert!(salvaged.iter().any(|payload| payload == record.payload));
        scanned.push(record.unread);
        true
    })
    .unwrap();
    let lost: u64 = log.take_events().iter().map(lost).sum();
    let found: u64 = scanned.iter().map(|unread| unread.end - unread.start).sum();
    assert_eq!(found + lost, next);

    // Read in small steps, the same entries come.
    let mut read = 0;
    loop {
        let entries = log.read(3, |record| record.first <= record.unread.start).unwrap();
        if entries.is_empty() {
            break;
        }
        assert!(entries.end - entries.start <= 3);
        read += entries.end - entries.start;
        log.commit(entries.end).unwrap();
        if read > 100 {
            // A record may claim any number of entries.
            log.commit(next).unwrap();
        }
    }
    assert!(read <= found && (read == found || read > 100), "{read} of {scanned:?}");
    assert!(log.is_drained() && log.stats().bytes == 0);

    if next < u64::MAX {
        log.append(1, 0, b"more").unwrap();
        drop(log);
        let mut log = Wal::open(fs, dir, Options::new()).unwrap();
        assert_eq!(log.read(2, |record| record.payload == b"more").unwrap(), next..next + 1);
    }
}

fn check(record: &Record<'_>, expected: u64) -> u64 {
    assert!(record.count > 0 && record.unread.start >= expected.max(record.first));
    assert!(record.unread.end <= record.first + u64::from(record.count));
    record.unread.end
}

fn lost(event: &Event) -> u64 {
    match event {
        Event::Lost { entries } => entries.end - entries.start,
        _ => 0,
    }
}
