//! Decoding and resizing give the same bits with and without the processor's vector instructions:
//! what the promise rests on that a sample is the same on every machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use fast_image_resize::CpuExtensions;
use fast_image_resize::FilterType;
use fast_image_resize::PixelType;
use fast_image_resize::ResizeAlg;
use fast_image_resize::ResizeOptions;
use fast_image_resize::Resizer;
use fast_image_resize::images::CroppedImage;
use fast_image_resize::images::Image;
use fast_image_resize::images::ImageRef;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

#[test]
fn resized_pixels_do_not_depend_on_the_instruction_set() {
    let (width, height, photo) = photo();
    let noise: Vec<u8> =
        (0..photo.len() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let extensions = [
        CpuExtensions::None,
        #[cfg(target_arch = "x86_64")]
        CpuExtensions::Sse4_1,
        #[cfg(target_arch = "x86_64")]
        CpuExtensions::Avx2,
        #[cfg(target_arch = "aarch64")]
        CpuExtensions::Neon,
    ];
    for pixels in [&photo, &noise] {
        let image = ImageRef::new(width, height, pixels, PixelType::U8x3).unwrap();
        for (left, top, w, h) in WINDOWS {
            for size in SIZES {
                let results: Vec<Vec<u8>> = extensions
                    .iter()
                    .filter(|extension| extension.is_supported())
                    .map(|&extension| {
                        let part = CroppedImage::new(&image, left, top, w, h).unwrap();
                        let mut into = Image::new(size, size, PixelType::U8x3);
                        resizer(extension).resize(&part, &mut into, &bilinear()).unwrap();
                        into.into_vec()
                    })
                    .collect();
                let same = results.iter().all(|result| *result == results[0]);
                assert!(same, "{w}x{h} at {left}, {top} to {size}");
            }
        }
    }
}

#[test]
fn decoded_pixels_do_not_depend_on_the_instruction_set() {
    let mut images = Vec::new();
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "jpg") {
            images.push(fs::read(path).unwrap());
        }
    }
    assert!(images.len() > 10);
    for bytes in images {
        let decode = |bytes: &[u8], options: DecoderOptions| {
            let options = options.jpeg_set_out_colorspace(ColorSpace::RGB);
            JpegDecoder::new_with_options(ZCursor::new(bytes), options).decode().ok()
        };
        // Damage makes coefficients that no encoder writes, the likeliest to overflow differently.
        for at in (bytes.len() / 2..bytes.len() - 2).step_by(11).chain([0]) {
            let mut bytes = bytes.clone();
            bytes[at] ^= u8::from(at > 0) * 0x15;
            let fast = decode(&bytes, DecoderOptions::new_fast());
            assert_eq!(fast, decode(&bytes, DecoderOptions::new_safe()), "byte {at}");
        }
    }
}

fn resizer(extension: CpuExtensions) -> Resizer {
    let mut resizer = Resizer::new();
    // SAFETY: the caller passes only what `is_supported` found on this processor.
    unsafe { resizer.set_cpu_extensions(extension) };
    resizer
}

fn bilinear() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false)
}

fn photo() -> (u32, u32, Vec<u8>) {
    let file = fs::File::open(fixtures().join("photo.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    (frame.width, frame.height, pixels)
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Of an image of 160x120: left, top, width, height.
const WINDOWS: [(u32, u32, u32, u32); 7] = [
    (0, 0, 160, 120),
    (13, 7, 90, 101),
    (100, 60, 17, 23),
    (3, 5, 48, 48),
    (159, 119, 1, 1),
    (31, 0, 65, 1),
    (0, 1, 127, 119),
];
const SIZES: [u32; 5] = [1, 7, 48, 112, 224];
