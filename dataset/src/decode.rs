//! JPEG and PNG files to 8-bit RGB. The content decides which of the two a file is, never its name.
//!
//! * Grey becomes RGB of three equal values. CMYK and YCCK are taken to be inverted, as Adobe writes
//!   them and as every reader assumes.
//! * An alpha channel is dropped, palettes are resolved; 16-bit values lose their lower byte.
//! * EXIF orientation, gamma and colour profiles are ignored.
//!
//! All of that is what `convert("RGB")` of Pillow, and so torchvision's `ImageFolder`, gives, with
//! one exception: 16-bit grey, which Pillow clips at 255 and so turns white.
//!
//! Files are hostile until decoded: sizes are checked before anything is allocated for them, what
//! ends early or departs from its format is an error, and a panic of a decoder is one too. Knows
//! neither labels nor the size of a sample.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Cursor;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// An image that gave no sample, and why.
#[derive(Debug, thiserror::Error)]
#[error("image {} {fault}", path.display())]
pub struct ImageError {
    pub path: PathBuf,
    pub fault: ImageFault,
}

/// What is wrong with an image file. The text continues a sentence that starts with its name.
#[derive(Debug, thiserror::Error)]
pub enum ImageFault {
    #[error("cannot be read: {0}; {advice}", advice = advice(.0))]
    Unreadable(io::Error),

    #[error("is not a regular file; put the image itself there")]
    NotAFile,

    #[error("has {found} bytes, more than the limit of {FILE_BYTES_MAX}; store it smaller")]
    FileTooLarge { found: u64 },

    #[error("is neither JPEG nor PNG (it starts with {start:02x?}); convert it or remove it")]
    UnknownKind { start: Vec<u8> },

    #[error(
        "is {width}x{height}, more than the limit of {SIDE_MAX} on a side or {PIXELS_MAX} pixels; resize it"
    )]
    TooLarge { width: usize, height: usize },

    #[error("ends before its {kind} data is complete; copy or download it again")]
    Truncated { kind: FileKind },

    #[error("is damaged {kind}: {cause}; copy or download it again")]
    Damaged { kind: FileKind, cause: String },

    #[error("broke its decoder: {cause}; re-encode it or remove it")]
    Panicked { cause: String },
}

impl ImageFault {
    /// The bytes are wrong, and so in every copy of the file. What else goes wrong has to do with the
    /// machine: the file is gone, or can't be read there.
    pub fn is_in_content(&self) -> bool {
        !matches!(self, ImageFault::Unreadable(_) | ImageFault::NotAFile)
    }
}

/// What helps against an error of reading.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "put it back, or check the path",
        io::ErrorKind::PermissionDenied => "let this user read it, with `chmod` or `chown`",
        _ => "check the disk, or the network, that it lies on",
    }
}

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Jpeg,
    Png,
}

/// A decoded image. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>, // [height, width, 3]
    raw: Vec<u8>,            // as stored in a PNG, where that is not RGB
}

/// Reads an image file into `bytes`, whose memory is used again.
pub(crate) fn read(path: &Path, bytes: &mut Vec<u8>) -> Result<(), ImageFault> {
    bytes.clear();
    let metadata = fs::metadata(path).map_err(ImageFault::Unreadable)?;
    if !metadata.is_file() {
        return Err(ImageFault::NotAFile);
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(ImageFault::FileTooLarge { found: metadata.len() });
    }
    let file = File::open(path).map_err(ImageFault::Unreadable)?;
    // A file that grows meanwhile is cut: it is damaged then, and not larger than the limit.
    file.take(metadata.len()).read_to_end(bytes).map_err(ImageFault::Unreadable)?;
    Ok(())
}

impl Picture {
    /// Decodes a whole image file. After an error the picture holds nothing of use.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<(), ImageFault> {
        match FileKind::of(bytes)? {
            FileKind::Jpeg => self.decode_jpeg(bytes),
            FileKind::Png => self.decode_png(bytes),
        }
    }

    /// Gives back the memory of an unusually large image, which a thread would keep for ever.
    pub(crate) fn shrink(&mut self) {
        for buffer in [&mut self.rgb, &mut self.raw] {
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
    }

    fn decode_jpeg(&mut self, bytes: &[u8]) -> Result<(), ImageFault> {
        let damaged = |cause| damaged(FileKind::Jpeg, &cause);
        // Strict: what ends early would otherwise be filled up with grey. The limits are ours, below.
        let options = DecoderOptions::new_fast()
            .set_strict_mode(true)
            .set_max_width(usize::MAX)
            .set_max_height(usize::MAX)
            .jpeg_set_max_scans(SCANS_MAX)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(damaged)?;
        let (width, height) = decoder.dimensions().expect("the header was just read");
        self.take_size(width, height)?;
        if !ends_after_its_first_scan(bytes) {
            return Err(ImageFault::Truncated { kind: FileKind::Jpeg });
        }
        decoder.decode_into(&mut self.rgb).map_err(damaged)
    }

    fn decode_png(&mut self, bytes: &[u8]) -> Result<(), ImageFault> {
        let mut decoder = png::Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let header = decoder.read_header_info().map_err(png_fault)?;
        let (width, height) = (header.width as usize, header.height as usize);
        self.take_size(width, height)?;
        let mut reader = decoder.read_info().map_err(png_fault)?;
        let len = reader.output_buffer_size().ok_or(ImageFault::TooLarge { width, height })?;
        self.raw.clear();
        self.raw.resize(len, 0);
        let frame = reader.next_frame(&mut self.raw).map_err(png_fault)?;
        // Only the chunk behind the pixels shows that nothing is missing.
        reader.finish().map_err(png_fault)?;
        let samples = frame.color_type.samples();
        let pixels = self.rgb.chunks_exact_mut(3).zip(self.raw.chunks_exact(samples));
        match samples {
            1 | 2 => pixels.for_each(|(rgb, raw)| rgb.fill(raw[0])),
            3 => std::mem::swap(&mut self.rgb, &mut self.raw),
            _ => pixels.for_each(|(rgb, raw)| rgb.copy_from_slice(&raw[..3])),
        }
        Ok(())
    }

    /// Makes room for the pixels of a header, unless they are too many.
    fn take_size(&mut self, width: usize, height: usize) -> Result<(), ImageFault> {
        if width > SIDE_MAX || height > SIDE_MAX || width * height > PIXELS_MAX {
            return Err(ImageFault::TooLarge { width, height });
        }
        (self.width, self.height) = (width, height);
        // Blank: a decoder may leave out pixels of a damaged file, and those of the image before must
        // not show.
        self.rgb.clear();
        self.rgb.resize(width * height * 3, 0);
        Ok(())
    }
}

impl FileKind {
    fn of(bytes: &[u8]) -> Result<FileKind, ImageFault> {
        if bytes.starts_with(&[0xff, JPEG_START, 0xff]) {
            Ok(FileKind::Jpeg)
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Ok(FileKind::Png)
        } else {
            let start = bytes[..bytes.len().min(START_BYTES_SHOWN)].to_vec();
            Err(ImageFault::UnknownKind { start })
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Jpeg => "JPEG",
            FileKind::Png => "PNG",
        })
    }
}

/// Whether an end-of-image marker follows the first start of scan: without one the file was cut. In
/// compressed data no marker occurs by accident, and before it lie whole images (EXIF thumbnails),
/// whose end is not the file's.
fn ends_after_its_first_scan(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(pair) = bytes.get(at..at + 2) {
        match pair {
            [0xff, JPEG_SCAN] => {
                return bytes[at..].windows(2).rev().any(|pair| pair == [0xff, JPEG_END]);
            }
            // Markers without content.
            [0xff, 0x01 | 0xd0..=0xd8] => at += 2,
            [0xff, 0x02..=0xfe] => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
            // Fill bytes.
            _ => at += 1,
        }
    }
    false
}

fn png_fault(error: png::DecodingError) -> ImageFault {
    match error {
        png::DecodingError::IoError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            ImageFault::Truncated { kind: FileKind::Png }
        }
        other => damaged(FileKind::Png, &other),
    }
}

/// The decoder's words, as one line of bounded length: they end up in logs and on pages.
fn damaged(kind: FileKind, cause: &dyn fmt::Display) -> ImageFault {
    ImageFault::Damaged { kind, cause: one_line(&cause.to_string()) }
}

pub(crate) fn one_line(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(CAUSE_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// Larger than any photograph; what is larger still is refused before memory is allocated for it.
const SIDE_MAX: usize = 16_384;
const PIXELS_MAX: usize = 64_000_000;
/// Three bytes for each of the allowed pixels, stored without compression, and some to spare.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Of a progressive JPEG, each over all pixels. Encoders use about ten; a bomb uses thousands.
const SCANS_MAX: usize = 100;
/// A photograph of 5 megapixels. Larger buffers are not kept from one image to the next.
const KEPT_BYTES_MAX: usize = 16 << 20;
const CAUSE_CHARS_MAX: usize = 200;
const START_BYTES_SHOWN: usize = 4;
const JPEG_START: u8 = 0xd8;
const JPEG_SCAN: u8 = 0xda;
const JPEG_END: u8 = 0xd9;

#[cfg(test)]
pub(crate) mod tests;
