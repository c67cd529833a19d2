"""The zip archive that torch.save writes, read by one reader: what is checked is what is loaded.

The archive has one table of contents, which ends where its end record begins and begins where that says; nothing in
it is compressed, and every checksum is compared. The file is read once, record by record, and no record twice.
"""

import re
import struct
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from ..files import shown
from .refusal import CONVERT, refuse

LARGEST_PICKLE = 32 * 2**20  # bytes of data.pkl, which holds names and shapes only
LARGEST_TABLE = 16 * 2**20  # bytes of the table of contents
MOST_RECORDS = 100_000
AT_ONCE = 2**24  # bytes
VERSIONS = [b"%d" % number for number in range(1, 11)]  # those that torch itself reads
RECORDS = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9]+"
)
DAMAGED = "is damaged or cut short ({}): copy or download it again"
FAULTS = (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError)


class Archive:
    """An archive as torch.save writes it, open for reading.

    Args:
        file: The open file.
        path: What errors call it.

    Raises:
        CheckpointError: If another reader could find other records in it, or torch.save does not write its like.
    """

    def __init__(self, file: BufferedReader, path: str | Path) -> None:
        self.path = path
        check_end(file, path)
        try:
            self.archive = zipfile.ZipFile(file)
        except FAULTS as error:
            refuse(path, DAMAGED.format(shown(error)), error)
        self.unread = check_records(self.archive.infolist(), file.seek(0, 2), path)
        version = self.text("version", 64).strip()
        if version not in VERSIONS:
            refuse(path, f"is of version {shown(version)} of torch's format, which is not supported: {CONVERT}")
        if "byteorder" in self.unread and self.text("byteorder", 64) != b"little":
            refuse(path, "was written on a big-endian machine: save it again on a little-endian one")

    def text(self, name: str, most: int) -> bytes:
        """A small record, whole."""
        info = self.unread.pop(name)
        if info.file_size > most:
            refuse(self.path, f"has {info.file_size} bytes in its record {name} where {most} are allowed")
        return b"".join(self.chunks(info))

    def storage(self, key: str) -> Tensor:
        """The bytes of a storage, which can be had once."""
        info = self.unread.pop(f"data/{key}", None)
        if info is None:
            refuse(self.path, f"lacks the record data/{shown(key)}, which torch.save writes for a tensor")
        storage = torch.empty(info.file_size, dtype=torch.uint8, device="cpu")
        view, place = storage.numpy().data, 0
        for chunk in self.chunks(info):
            view[place : place + len(chunk)] = chunk
            place += len(chunk)
        return storage

    def check_rest(self) -> None:
        """Compare the checksums of the records that nobody asked for."""
        while self.unread:
            for _ in self.chunks(self.unread.popitem()[1]):
                pass

    def chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """A record, piece by piece, and at its end its checksum compared."""
        left = info.file_size
        try:
            with self.archive.open(info) as record:
                while chunk := record.read(AT_ONCE):
                    left -= len(chunk)
                    yield chunk
        except FAULTS as error:
            name = shown(info.filename)
            if "CRC" in str(error):
                refuse(self.path, f"is damaged: the checksum of its record {name!r} does not match", error)
            refuse(self.path, DAMAGED.format(shown(error)), error)
        if left:
            refuse(self.path, DAMAGED.format(f"{left} bytes of {shown(info.filename)!r} are missing"))


def check_end(file: BufferedReader, path: str | Path) -> None:
    """Refuse a table of contents that is not right before the end record that tells its place, or a huge one.

    The end of a file is 22 bytes; before them there may be 20 that tell where the 56 are which hold the same numbers
    for archives beyond 4 GB, as torch always writes them.
    """
    size = file.seek(0, 2)
    file.seek(max(size - 98, 0))
    end = file.read()
    if len(end) < 22 or end[-22:-18] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        refuse(path, DAMAGED.format("its end is not that of a zip archive"))
    told, tail = struct.unpack("<H2L", end[-12:-2]), 22
    count, length, start = told
    if end[-42:-38] == b"PK\x06\x07":
        count, length, start = struct.unpack("<3Q", end[32:56])
        place, tail = struct.unpack("<Q", end[-34:-26])[0], 98
        if end[:4] != b"PK\x06\x06" or place != size - tail:
            refuse(path, DAMAGED.format("its end records are not where they say"))
    if start + length + tail != size or told != (min(count, 2**16 - 1), min(length, 2**32 - 1), min(start, 2**32 - 1)):
        refuse(path, "could be read in two ways, by two tables of contents: copy or download it again")
    if count > MOST_RECORDS or length > LARGEST_TABLE:
        refuse(path, f"has {count} records in {length} bytes of contents, too many: {CONVERT}")


def check_records(infos: list[zipfile.ZipInfo], size: int, path: str | Path) -> dict[str, zipfile.ZipInfo]:
    """The records by their names inside of the one folder, if they are those that torch.save writes."""
    names = [info.orig_filename for info in infos]
    records = {info.orig_filename.partition("/")[2]: info for info in infos}
    if len({name.lower() for name in names}) < len(names):
        refuse(path, "holds two records of one name")
    if any(name == "constants.pkl" or name.startswith("code/") for name in records):
        refuse(path, f"is a TorchScript program, which is code: {CONVERT}")
    strange = [info.orig_filename for name, info in records.items() if not RECORDS.fullmatch(name)]
    if strange:
        refuse(path, f"is a zip archive with the record {shown(strange[0])!r}, which torch.save does not write")
    if len({name.partition("/")[0] for name in names}) != 1 or not {"data.pkl", "version"} <= set(records):
        refuse(path, "is a zip archive, but not one that torch.save wrote")
    if any(info.compress_type or info.file_size != info.compress_size or info.flag_bits & 1 for info in infos):
        refuse(path, "holds compressed or encrypted records, which torch.save does not write")
    if sum(info.file_size for info in infos) > size:
        refuse(path, "claims to hold more bytes than it has")
    return records
