"""Files of other kinds, known by their first bytes, with the way to make them into what is read here."""

from __future__ import annotations

import re

_PYTORCH = (
    "is a PyTorch file, which may run programs as it is loaded; export an array in Python: "
    'numpy.save("w.npy", torch.load("w.pt")["conv.weight"].numpy()), and give --kernel-layout oihw'
)
_PICTURE = "is in {} format, which is not read; save it as .png"
_STARTS: tuple[tuple[bytes, str], ...] = (
    # Pickle's protocols 2 to 5, as torch.save wrote them before it wrote zip archives.
    (rb"\x80[\x02-\x05].*torch|\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", _PYTORCH),
    (
        rb"\x80[\x02-\x05]",
        "is a Python pickle, which may run programs as it is loaded; save its array with numpy.save",
    ),
    (
        rb"\x89HDF\r\n\x1a\n",
        'is an HDF5 file; export an array in Python: numpy.save("w.npy", h5py.File("w.h5")["name"][()])',
    ),
    (
        rb"MATLAB 5\.0",
        'is a MATLAB file; export an array in Python: numpy.save("w.npy", scipy.io.loadmat("w.mat")["name"])',
    ),
    (
        rb".{4}[\0-\x0f]\0\0\0\{\s*\"",
        "is a safetensors file, which no pipe can carry; name it as a file: file.safetensors:name",
    ),
    (rb"\x1f\x8b", "is compressed by gzip; unpack it first, as in gunzip -c FILE | convmat … -"),
    (rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", _PICTURE.format("HEIC")),
    (rb".{4}ftypavi[fs]", _PICTURE.format("AVIF")),
    (rb".{4}ftyp", "is a film; save a frame of it as .png"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", _PICTURE.format("JPEG XL")),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _PICTURE.format("JPEG 2000")),
    (rb"%PDF-", _PICTURE.format("PDF")),
    (rb"(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", _PICTURE.format("SVG")),
)
KNOWN_BYTES = 512
"""So many first bytes are enough to know a file by."""


def foreign(start: bytes) -> str | None:
    """What a file that begins so is, and how to bring it here, as the rest of a sentence; None if unknown."""
    for pattern, what in _STARTS:
        if re.match(pattern, start[:KNOWN_BYTES], re.DOTALL):
            return what
    return None


def foreign_archive(names: list[str]) -> str | None:
    """The same of a zip archive with these members."""
    if any(name.endswith("data.pkl") for name in names):
        return _PYTORCH
    if "model.weights.h5" in names:
        return (
            "is a Keras model; export an array in Python: "
            'numpy.save("w.npy", keras.models.load_model("m.keras").get_layer("name").get_weights()[0]), and '
            "give --kernel-layout hwio"
        )
    return None
