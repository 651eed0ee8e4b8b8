"""Small pictures of every format that cost much memory to decode."""

from __future__ import annotations

import io

import PIL.Image

from tests.support.encoded import png_bomb
from tests.support.shared import shared_dir


def saved(image_format: str, mode: str = "RGB", side_px: int = 5000, **options: object) -> bytes:
    """Return a picture of one colour."""
    file = io.BytesIO()
    PIL.Image.new(mode, (side_px, side_px)).save(file, image_format, **options)
    return file.getvalue()


def animated(image_format: str, side_px: int = 4000, **options: object) -> bytes:
    """Return an animation of three frames."""
    file = io.BytesIO()
    frames = [PIL.Image.new("RGB", (side_px, side_px), (number, 0, 0)) for number in range(3)]
    frames[0].save(file, image_format, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


def bombs() -> dict[str, bytes]:
    """Return pictures of every format, by name."""
    folder = shared_dir() / "cases" / "bombs"
    made = {
        "png.png": png_bomb(5000),
        "alpha.png": saved("PNG", "RGBA"),
        "interlaced.png": png_bomb(5000, is_interlaced=True),
        "gray.webp": saved("WEBP", "L", lossless=True, method=0),
        "alpha.webp": saved("WEBP", "RGBA", lossless=True, method=0),
        "lossy.webp": saved("WEBP", method=0),
        "animated.webp": animated("WEBP", method=0),
        "animated.png": animated("PNG"),
        "still.gif": saved("GIF", "P"),
        "animated.gif": animated("GIF"),
        "still.bmp": saved("BMP", side_px=2000),
        "packed.tif": saved("TIFF", "RGBA", compression="tiff_adobe_deflate"),
        "bilevel.tif": saved("TIFF", "1", compression="group4"),
        "flat.avif": saved("AVIF", speed=10),
        "alpha.avif": saved("AVIF", "RGBA", speed=10),
        "colourful.avif": saved("AVIF", speed=10, subsampling="4:4:4"),
        "plain.jpg": saved("JPEG"),
        "progressive.jpg": saved("JPEG", progressive=True, subsampling=0),
        "cmyk.jpg": saved("JPEG", "CMYK"),
    }
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | made
