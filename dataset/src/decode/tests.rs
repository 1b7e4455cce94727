//! Every kind of file against the pixels that Pillow decodes, and what is no image or no whole one.
//! The files are made by `tests/fixtures/make.py`, which also says where the photographs are from.

use super::FileKind;
use super::ImageFault;
use super::PIXELS_MAX;
use super::Picture;
use super::SIDE_MAX;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

#[test]
fn pngs_give_exactly_the_pixels_of_pillow() {
    let names = names_ending_in("png");
    assert_eq!(names.len(), 13, "{names:?}");
    for name in names {
        let (picture, expected) = (decoded(&name), expected(&name));
        assert_eq!(picture.rgb, expected, "{}", name.display());
    }
}

/// Both decoders are free to round an inverse transform and colour conversion their own way.
#[test]
fn jpegs_give_nearly_the_pixels_of_pillow() {
    let names = names_ending_in("jpg");
    assert_eq!(names.len(), 11, "{names:?}");
    for name in names {
        let (picture, expected) = (decoded(&name), expected(&name));
        let differences = || picture.rgb.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let mean = differences().map(f64::from).sum::<f64>() / expected.len() as f64;
        let largest = differences().max().unwrap();
        assert!(mean <= MEAN_MAX && largest <= LARGEST_MAX, "{}: {mean} {largest}", name.display());
    }
}

#[test]
fn a_wrong_ending_does_not_matter() {
    assert_eq!(FileKind::of(&file("rgb8.png")).unwrap(), FileKind::Png);
    assert_eq!(FileKind::of(&file("grey.jpg")).unwrap(), FileKind::Jpeg);
    let fault = FileKind::of(b"GIF89a and more").unwrap_err().to_string();
    assert_eq!(
        fault,
        "is neither JPEG nor PNG (it starts with [47, 49, 46, 38]); convert it or remove it"
    );
    assert!(matches!(FileKind::of(b""), Err(ImageFault::UnknownKind { .. })));
}

#[test]
fn what_was_decoded_before_does_not_matter() {
    let mut picture = Picture::default();
    for name in ["grey.jpg", "rgb_alpha16.png", "photo.png", "rgb8.png", "cmyk.jpg", "grey8.png"] {
        picture.decode(&file(name)).unwrap();
        assert_eq!(picture.rgb, decoded(Path::new(name)).rgb, "{name}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for name in ["baseline_420.jpg", "progressive.jpg", "restarts.jpg", "grey.jpg", "cmyk.jpg"]
        .iter()
        .chain(&["palette8.png", "grey8.png", "interlaced.png", "bilevel.png"])
    {
        let whole = file(name);
        let mut picture = Picture::default();
        for length in 0..whole.len() {
            let fault = picture.decode(&whole[..length]).unwrap_err();
            assert!(!matches!(fault, ImageFault::Panicked { .. }), "{name} of {length}: {fault}");
        }
    }
}

/// A flipped bit may go unnoticed in a JPEG, but it never takes the process down, the decoders do not
/// even panic, and what comes out does not depend on the image before.
#[test]
fn damaged_files_do_no_harm() {
    let mut picture = Picture::default();
    for name in ["baseline_420.jpg", "progressive.jpg", "cmyk.jpg", "palette2.png", "rgb16.png"] {
        let whole = file(name);
        for bit in (0..whole.len() * 8).step_by(7) {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = picture.decode(&damaged);
            // All of a PNG is under checksums, but for what is behind its end.
            let seen = result.is_err() || !name.ends_with("png");
            assert!(seen, "bit {bit} of {name}");
            if result.is_ok() {
                let mut fresh = Picture::default();
                fresh.decode(&damaged).unwrap();
                assert_eq!(picture.rgb, fresh.rgb, "bit {bit} of {name}");
            }
            picture.rgb.fill(0xa5);
        }
    }
}

#[test]
fn huge_sizes_are_refused_before_memory_is_taken() {
    let side = |side: u32| u16::try_from(side).unwrap().to_be_bytes();
    for (width, height) in [(65_500, 65_500), (16_385, 1), (1, 16_385), (16_384, 3_907)] {
        let mut jpeg = file("baseline_420.jpg");
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 7].copy_from_slice(&side(height));
        jpeg[frame + 7..frame + 9].copy_from_slice(&side(width));
        let mut png = file("grey8.png");
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let sum = crc32(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&sum);
        for bytes in [jpeg, png] {
            let mut picture = Picture::default();
            let fault = picture.decode(&bytes).unwrap_err();
            let expected = (width as usize, height as usize);
            let ImageFault::TooLarge { width, height } = fault else { panic!("{fault}") };
            assert_eq!((width, height), expected);
            assert_eq!((picture.rgb.capacity(), picture.raw.capacity()), (0, 0));
        }
    }
    const { assert!(SIDE_MAX * 3_906 <= PIXELS_MAX && SIDE_MAX * 3_907 > PIXELS_MAX) };
}

#[test]
fn faults_say_what_to_do() {
    let mut cut = file("progressive.jpg");
    cut.truncate(cut.len() / 2);
    let fault = Picture::default().decode(&cut).unwrap_err().to_string();
    assert_eq!(fault, "ends before its JPEG data is complete; copy or download it again");
    let mut broken = file("rgb8.png");
    broken[100] ^= 1;
    let fault = Picture::default().decode(&broken).unwrap_err().to_string();
    assert!(fault.starts_with("is damaged PNG: "), "{fault}");
    assert!(fault.ends_with("; copy or download it again") && !fault.contains('\n'), "{fault}");
    for (kind, advice) in [
        (io::ErrorKind::NotFound, "; put it back, or check the path"),
        (io::ErrorKind::PermissionDenied, "; let this user read it, with `chmod` or `chown`"),
        (io::ErrorKind::Other, "; check the disk, or the network, that it lies on"),
    ] {
        let fault = ImageFault::Unreadable(kind.into()).to_string();
        assert!(fault.starts_with("cannot be read: ") && fault.ends_with(advice), "{fault}");
    }
}

#[test]
fn an_end_marker_counts_only_behind_the_first_scan() {
    let ends = super::ends_after_its_first_scan;
    // Start, an APP1 segment with a whole image inside, scan header, data, end.
    let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
    let head = [&[0xff, 0xd8][..], &thumbnail, &[0xff, 0xff, 0xda, 0, 2, 1, 2, 3]].concat();
    assert!(!ends(&head));
    assert!(ends(&[&head[..], &[0xff, 0xd9]].concat()));
    assert!(ends(&[&head[..], &[0xff, 0xd9, 0, 0, 0]].concat()), "padding behind the end");
    assert!(!ends(&[0xff, 0xd8, 0xff, 0xd9]));
    assert!(!ends(&[0xff, 0xd8, 0xff, 0xe1, 0xff]));
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn names_ending_in(ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name());
    entries
        .map(PathBuf::from)
        .filter(|name| name.extension().is_some_and(|found| found == ending))
        .filter(|name| name.as_os_str() != "photo.png")
        .collect()
}

fn decoded(name: &Path) -> Picture {
    let mut picture = Picture::default();
    let result = picture.decode(&file(name.to_str().unwrap()));
    result.unwrap_or_else(|fault| panic!("{} {fault}", name.display()));
    picture
}

fn expected(name: &Path) -> Vec<u8> {
    fs::read(fixtures().join(name.with_extension("rgb"))).unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

const MEAN_MAX: f64 = 0.6;
const LARGEST_MAX: u8 = 8;
