"""Makes photo-like JPEG files of 500x375 pixels and about 100 KB for the comparison of loaders: FOLDER/train and
FOLDER/val, one class. Noise of all scales, as in photographs: the power of a frequency falls with its square.
"""

import pathlib
import sys

import torch
from torchvision.io import encode_jpeg

COUNT, HEIGHT, WIDTH = 200, 375, 500


def photo(generator):
    rows = torch.fft.fftfreq(HEIGHT)[:, None] * HEIGHT
    columns = torch.fft.rfftfreq(WIDTH)[None, :] * WIDTH
    amplitude = 1 / (rows**2 + columns**2).sqrt().clamp(min=1)
    shape = (3, HEIGHT, WIDTH // 2 + 1)
    phase = torch.rand(shape, generator=generator) * 2 * torch.pi
    image = torch.fft.irfft2(torch.polar(amplitude.expand(shape).contiguous(), phase), s=(HEIGHT, WIDTH))
    # The channels of a photograph are alike.
    image = 0.8 * image[:1] + 0.2 * image
    image = (image - image.mean()) / image.std()
    return (128 + 50 * image).clamp(0, 255).to(torch.uint8)


def main():
    folder = pathlib.Path(sys.argv[1])
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", COUNT), ("val", 1)):
        (folder / split / "a").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            data = encode_jpeg(photo(generator), quality=92)
            (folder / split / "a" / f"{number:03}.jpg").write_bytes(data.numpy().tobytes())


if __name__ == "__main__":
    main()
