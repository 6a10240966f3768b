"""Video in and out: exact time, right colours, constant memory."""

from .formats import CODECS, CONTAINERS, Codec, codec_for
from .reader import ClipReader, probe
from .sizes import fit_size
from .writer import ClipWriter, check_output

__all__ = [
    "CODECS",
    "CONTAINERS",
    "ClipReader",
    "ClipWriter",
    "Codec",
    "check_output",
    "codec_for",
    "fit_size",
    "probe",
]
