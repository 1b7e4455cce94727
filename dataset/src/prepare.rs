//! From an image of any size to a sample of one size: which part is taken, and how it is resized.
//!
//! The windows are those of torchvision's `RandomResizedCrop`, and of its `Resize` and `CenterCrop`;
//! resizing is bilinear with antialiasing, as torchvision's. Exponentials and logarithms come from
//! `libm`, and pixels are computed in integers, so a sample is the same on every machine.
//!
//! Knows neither mirroring nor normalisation: those follow on the device.

use crate::decode;
use crate::decode::ImageError;
use crate::decode::ImageFault;
use crate::decode::Picture;
use crate::order::Draws;
use fast_image_resize::FilterType;
use fast_image_resize::PixelType;
use fast_image_resize::ResizeAlg;
use fast_image_resize::ResizeOptions;
use fast_image_resize::Resizer;
use fast_image_resize::images::CroppedImage;
use fast_image_resize::images::Image;
use fast_image_resize::images::ImageRef;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// How an image becomes a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preparation {
    /// It is one already: all images of the format have the size of a sample.
    AsStored,
    /// A part of random area and shape, resized to `size` x `size`. For training.
    RandomResizedCrop {
        size: usize,
        /// Least and largest share of the image's area.
        scale: [f64; 2],
        /// Least and largest width / height.
        ratio: [f64; 2],
    },
    /// The whole image, its shorter side resized to `resize`, then the `size` x `size` pixels in the
    /// middle. For evaluation; `resize` is not below `size`.
    ResizeCentreCrop { resize: usize, size: usize },
}

/// Makes samples. Keeps its buffers from one to the next, so each thread has one of its own.
#[derive(Debug)]
pub struct Preparer {
    preparation: Preparation,
    file: Vec<u8>,
    picture: Picture,
    resizer: Resizer,
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Preparation {
    /// Side of a sample in pixels; `None` where it is that of the stored images.
    pub fn size(self) -> Option<usize> {
        match self {
            Preparation::AsStored => None,
            Preparation::RandomResizedCrop { size, .. }
            | Preparation::ResizeCentreCrop { size, .. } => Some(size),
        }
    }
}

impl Preparer {
    /// # Panics
    /// If a size is 0, `resize` is below `size`, or a range is empty or not positive.
    pub fn new(preparation: Preparation) -> Preparer {
        match preparation {
            Preparation::AsStored => {}
            Preparation::RandomResizedCrop { size, scale, ratio } => {
                assert!(size > 0, "a sample has pixels");
                for [least, largest] in [scale, ratio] {
                    assert!(0.0 < least && least <= largest && largest.is_finite());
                }
            }
            Preparation::ResizeCentreCrop { resize, size } => {
                assert!(0 < size && size <= resize, "the centre lies inside the resized image");
            }
        }
        Preparer {
            preparation,
            file: Vec::new(),
            picture: Picture::default(),
            resizer: Resizer::new(),
        }
    }

    pub fn preparation(&self) -> Preparation {
        self.preparation
    }

    /// From here on, random crops are resized to this side.
    ///
    /// # Panics
    /// If it makes no random crops, or `side` is 0.
    pub fn resize_crops_to(&mut self, side: usize) {
        let Preparation::RandomResizedCrop { size, .. } = &mut self.preparation else {
            panic!("{:?} makes no random crops", self.preparation)
        };
        assert!(side > 0, "a sample has pixels");
        *size = side;
    }

    /// Reads an image file and writes its sample, `[size, size, 3]`.
    ///
    /// # Panics
    /// If the preparation has no size, or `into` is not of that size.
    pub fn sample(
        &mut self,
        path: &Path,
        draws: &mut Draws,
        into: &mut [u8],
    ) -> Result<(), ImageError> {
        let size = self.preparation.size().expect("images in files have no size of their own");
        assert_eq!(into.len(), size * size * 3, "room for one sample");
        let result = decode::read(path, &mut self.file).and_then(|()| {
            // The buffers are overwritten by the next image, whatever this one leaves in them.
            let sample = AssertUnwindSafe(|| self.sample_of_file(draws, into));
            std::panic::catch_unwind(sample)
                .unwrap_or_else(|panic| Err(ImageFault::Panicked { cause: words_of(&*panic) }))
        });
        self.picture.shrink();
        result.map_err(|fault| ImageError { path: path.to_owned(), fault })
    }

    fn sample_of_file(&mut self, draws: &mut Draws, into: &mut [u8]) -> Result<(), ImageFault> {
        self.picture.decode(&self.file)?;
        let (width, height) = (self.picture.width, self.picture.height);
        match self.preparation {
            Preparation::AsStored => {}
            Preparation::RandomResizedCrop { size, scale, ratio } => {
                let window = random_window(width, height, scale, ratio, draws);
                self.resize_window(window, size, into);
            }
            Preparation::ResizeCentreCrop { resize, size } => {
                self.resize_centre(resize, size, into);
            }
        }
        Ok(())
    }

    /// As if the window were an image of its own: pixels around it have no influence.
    fn resize_window(&mut self, window: Window, size: usize, into: &mut [u8]) {
        let picture = image(&self.picture);
        let [left, top, width, height] =
            [window.left, window.top, window.width, window.height].map(|length| length as u32);
        let part = CroppedImage::new(&picture, left, top, width, height).expect(INSIDE);
        self.resizer.resize(&part, &mut sample(size, into), &bilinear()).expect(INSIDE);
    }

    /// Computes only the pixels in the middle: of a long strip the whole would not fit in memory.
    fn resize_centre(&mut self, resize: usize, size: usize, into: &mut [u8]) {
        let (width, height) = (self.picture.width, self.picture.height);
        let shorter = width.min(height);
        let axis = |length: usize| {
            let resized = resize * length / shorter;
            let first = ((resized - size) as f64 / 2.0).round_ties_even();
            let step = length as f64 / resized as f64;
            let start = first * step;
            // Rounding must not carry the far end beyond the image.
            (start, (size as f64 * step).min(length as f64 - start))
        };
        let ((left, width), (top, height)) = (axis(width), axis(height));
        let options = bilinear().crop(left, top, width, height);
        let picture = image(&self.picture);
        self.resizer.resize(&picture, &mut sample(size, into), &options).expect(INSIDE);
    }
}

/// torchvision's rule, with its number of tries: a random area and shape where that fits, else the
/// largest part in the middle whose shape is allowed.
fn random_window(
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
    draws: &mut Draws,
) -> Window {
    let area = (width * height) as f64;
    let log_ratio = ratio.map(libm::log);
    for _ in 0..TRIES {
        let target = area * between(scale, draws);
        let shape = libm::exp(between(log_ratio, draws));
        let w = (target * shape).sqrt().round_ties_even() as usize;
        let h = (target / shape).sqrt().round_ties_even() as usize;
        if 0 < w && w <= width && 0 < h && h <= height {
            let top = draws.below((height - h + 1) as u64) as usize;
            let left = draws.below((width - w + 1) as u64) as usize;
            return Window { left, top, width: w, height: h };
        }
    }
    let shape = width as f64 / height as f64;
    let (mut w, mut h) = (width, height);
    if shape < ratio[0] {
        h = (width as f64 / ratio[0]).round_ties_even() as usize;
    } else if shape > ratio[1] {
        w = (height as f64 * ratio[1]).round_ties_even() as usize;
    }
    // Where the bounds are far from 1, rounding a strip can give nothing.
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Window { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

fn between(range: [f64; 2], draws: &mut Draws) -> f64 {
    range[0] + (range[1] - range[0]) * draws.unit()
}

fn image(picture: &Picture) -> ImageRef<'_> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    ImageRef::new(width, height, &picture.rgb, PixelType::U8x3).expect("three bytes per pixel")
}

fn sample(size: usize, into: &mut [u8]) -> Image<'_> {
    Image::from_slice_u8(size as u32, size as u32, into, PixelType::U8x3).expect("room for it")
}

/// The filter is as wide as the step in the image when that is larger than a pixel: antialiasing.
fn bilinear() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false)
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    decode::one_line(text.unwrap_or("a panic without words"))
}

const TRIES: usize = 10;
const INSIDE: &str = "the window lies inside the image";

#[cfg(test)]
mod tests;
