//! The check of the fuzz target `spool_segment`: salvaging samples from any bytes.

use metrics_client::{Key, spool::Spool};

/// Salvaged samples are valid and fit into the bytes, and bytes appended to a segment take none away.
pub(crate) fn spool_segment(input: &[u8]) {
    let (samples, damaged) = Spool::salvage(input);
    assert!(damaged <= input.len());
    // A sample takes 18 bytes and its key.
    let least: usize = samples.iter().map(|sample| 18 + sample.key.as_str().len()).sum();
    assert!(least <= input.len() - damaged);
    for sample in &samples {
        assert!(Key::new(&sample.key).is_ok(), "{sample:?}");
        assert!(sample.point.value.is_finite(), "{sample:?}");
    }
    let twice = [input, input].concat();
    let (more, _) = Spool::salvage(&twice);
    assert_eq!(format!("{:?}", &more[..samples.len()]), format!("{samples:?}"));
    assert!(more.len() >= 2 * samples.len());
    for cut in [1, 20, 36, input.len() / 2] {
        let (fewer, _) = Spool::salvage(&input[..input.len().saturating_sub(cut)]);
        assert_eq!(format!("{fewer:?}"), format!("{:?}", &samples[..fewer.len()]));
    }
}
