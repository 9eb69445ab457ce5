"""What the name of an output says by its ending: the format of a picture, or what else it is."""

from __future__ import annotations

import os

from convmat.errors import FileError

PICTURE_FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The outputs that are pictures, by suffix, and Pillow's names of their formats."""

ANIMATION_FORMATS = {".apng": "PNG", ".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
"""The outputs that can move, by suffix, and Pillow's names of their formats."""

VECTOR = ".svg"
"""What is drawn by lines and words is sharp at any size in this format."""

# What a name that ends so says it is.
_NAMED = {
    f".{suffix}": what
    for what, suffixes in {
        "a data file": "arrow feather fits h5 hdf hdf5 mat mtx nc npyz nrrd parquet pickle pkl rda rds zarr",
        "a database": "db sqlite sqlite3",
        "a document": "doc docx eps odt pdf ps rtf tex",
        "a film": "avi m4v mkv mov mp4 mpeg mpg webm wmv",
        "a network": "ckpt gguf joblib keras mlmodel onnx pb pt pth safetensors tflite",
        "a packed file": "7z bz2 gz lz4 rar tar tbz tgz txz xz zip zst",
        "a picture": "avif dng exr hdr heic heif ico jp2 jxl pam pbm pfm pnm psd svg svgz tga",
        "a program": "c cc cpp cu cxx h hpp ipynb js mem py rs sh sv",
        "a sound": "aac flac m4a mp3 ogg wav",
        "a spreadsheet": "ods xls xlsx",
        "a text file": "csv hex htm html ini json jsonl log md rst toml tsv txt xml yaml yml",
        "an animation": "apng",
        "an .npy array": "npy",
        "an .npz archive": "npz",
    }.items()
    for suffix in suffixes.split()
} | dict.fromkeys(PICTURE_FORMATS, "a picture")

# How each kind of output may end; those that may end in anything unknown are named by the first.
_ENDINGS = {
    "npy": (".npy",),
    "npz": (".npz",),
    "zarr": (".zarr",),
    "picture": tuple(PICTURE_FORMATS),
    "figure": (*PICTURE_FORMATS, VECTOR),
    "animation": (*ANIMATION_FORMATS, VECTOR),
    "folder": (),
    "onnx": (".onnx",),
}


def ending(name: str) -> str:
    """The suffix of a name, in small letters."""
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Whether an output of this name is to be a picture."""
    return ending(name) in PICTURE_FORMATS


def is_zarr_name(name: str) -> bool:
    """Whether an output of this name is to be a zarr array, which is a folder."""
    return ending(name) == ".zarr"


def is_zarr(name: str) -> bool:
    """Whether a folder holds a zarr array or group."""
    return any(os.path.exists(os.path.join(name, file)) for file in ("zarr.json", ".zarray", ".zgroup"))


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern, as a shell would expand it, and not that of a file."""
    return any(sign in name for sign in "*?[") and not os.path.lexists(name)


def check_ending(name: str, *kinds: str) -> None:
    """Refuse a name whose ending says another format than what is written under it.

    `kinds` are what may be written, of npy, npz, zarr, picture, figure, animation, folder, onnx. What is
    seen must have an ending of theirs; all others may have one that says nothing, or none.

    Raises:
        FileError: another ending, or "-" for what is no .npy array.
    """
    for kind, named in (("npz", "an .npz archive"), ("onnx", "an ONNX model")):
        if name == "-" and kind in kinds and "npy" not in kinds:
            raise FileError("standard output", f"carries .npy bytes, and this is {named}; name a file")
    fitting = [suffix for kind in kinds for suffix in _ENDINGS[kind]]
    if ending(name) in fitting:
        return
    for kind in kinds:
        if kind in ("picture", "figure", "animation") and len(kinds) == 1:
            seen = "picture" if kind == "figure" else kind
            raise FileError(name or "''", f"is no {seen}'s name; end it in one of {', '.join(fitting)}")
    if ending(name) in _NAMED:
        what = {"picture": "a picture", "folder": "a folder"}
        written = " or ".join(what.get(kind, f".{kind}") for kind in kinds)
        remedy = f"name it {fitting[0]}" if fitting else "leave the ending out"
        raise FileError(name, f"is {_NAMED[ending(name)]}'s name, and this is written as {written}; {remedy}")
