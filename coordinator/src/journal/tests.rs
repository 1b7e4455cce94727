//! Real files: what is cut, flipped or torn gives the old records or a clear error.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn record(step: u64) -> Record {
    let (job, digest, chain) = ("digits-1".to_owned(), "ab".to_owned(), "cd".to_owned());
    Record::Committed { job, generation: 3, step, digest, chain, skipped: None }
}

/// A folder with a journal of three frames and five records.
fn small() -> (TempDir, PathBuf, Vec<Record>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    let records: Vec<Record> = (1..=5).map(record).collect();
    journal.append(&records[..1]).unwrap();
    journal.append(&records[1..4]).unwrap();
    journal.append(&records[4..]).unwrap();
    (folder, path, records)
}

/// Where the frames end.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![MAGIC.len()];
    while let Some(frame) = whole_frame(&bytes[*ends.last().unwrap()..]) {
        ends.push(ends.last().unwrap() + frame.len());
    }
    ends
}

/// Without the reserve, so that each byte can be tried.
fn trimmed(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let end = *frame_ends(&bytes).last().unwrap();
    bytes[..end].to_vec()
}

#[test]
fn records_are_read_back_in_order() {
    let (_folder, path, records) = small();
    let opened = Journal::open(&path).unwrap();
    assert_eq!((opened.records, opened.torn_bytes), (records.clone(), None));
    assert_eq!(Journal::read(&path).unwrap(), records);
}

#[test]
fn appending_goes_on_after_reopening() {
    let (_folder, path, mut records) = small();
    Journal::open(&path).unwrap().journal.append(&[record(6)]).unwrap();
    records.push(record(6));
    assert_eq!(Journal::open(&path).unwrap().records, records);
}

#[test]
fn a_journal_cut_anywhere_gives_a_prefix_of_its_records() {
    let (_folder, path, records) = small();
    let bytes = trimmed(&path);
    let ends = frame_ends(&bytes);
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let frames = ends.iter().filter(|&&end| end <= len).count();
        let Some(frames) = frames.checked_sub(1) else {
            assert!(matches!(Journal::open(&path), Err(JournalError::Foreign { .. })), "{len}");
            continue;
        };
        let expected = &records[..[0, 1, 4, 5][frames]];
        let Opened { mut journal, records, torn_bytes } = Journal::open(&path).unwrap();
        assert_eq!(records, expected, "cut at {len}");
        // A cut within the length's zero bytes leaves nothing but zeros, which is the reserve's look.
        assert!(
            ends.contains(&len) == torn_bytes.is_none() || len - ends[frames] < 4,
            "cut at {len}"
        );
        journal.append(&[record(9)]).unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.records.last(), again.torn_bytes), (Some(&record(9)), None));
    }
}

#[test]
fn a_flipped_byte_gives_the_records_before_it_or_an_error_that_says_where() {
    let (_folder, path, records) = small();
    let bytes = trimmed(&path);
    let ends = frame_ends(&bytes);
    let last_frame = ends[ends.len() - 2];
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        match Journal::open(&path) {
            Ok(opened) => {
                assert!(at >= last_frame, "a flip at {at} went unnoticed");
                assert_eq!(opened.records, records[..4], "flip at {at}");
                assert!(opened.torn_bytes.is_some());
            }
            Err(error) => {
                assert!(at < last_frame, "flip at {at}: {error}");
                let text = error.to_string();
                assert!(text.contains("restore it") || text.contains("no journal"), "{text}");
                assert_eq!(std::fs::read(&path).unwrap(), damaged, "an error changes nothing");
            }
        }
    }
}

#[test]
fn frames_in_another_order_are_refused() {
    let (_folder, path, _) = small();
    let bytes = trimmed(&path);
    let ends = frame_ends(&bytes);
    let mut swapped = bytes[..ends[0]].to_vec();
    swapped.extend(&bytes[ends[1]..ends[2]]);
    swapped.extend(&bytes[ends[0]..ends[1]]);
    std::fs::write(&path, swapped).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(error.to_string().contains("does not continue"), "{error}");
}

#[test]
fn space_is_reserved_ahead() {
    let (_folder, path, _) = small();
    let mut journal = Journal::open(&path).unwrap().journal;
    for batch in 0..200 {
        let records: Vec<Record> = (0..10).map(|step| record(10 * batch + step)).collect();
        journal.append(&records).unwrap();
        assert!(journal.reserved >= journal.end, "a frame is never written past the reserve");
    }
    assert_eq!(journal.reserved, path.metadata().unwrap().len());
    assert!(journal.reserved - journal.end >= RESERVE_BYTES / 4);
    assert_eq!(Journal::open(&path).unwrap().records.len(), 2005);
}

#[test]
fn another_file_is_no_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    std::fs::write(&path, "hello, this is a text file and nothing else").unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(error.to_string().contains("--state"), "{error}");
}
