"""The archive of torch.save: one table of contents, read by one reader."""

import io
import struct
import zipfile

import pytest
import torch

from lipdiag.errors import CheckpointError
from lipdiag.weights.archive import Archive, check_end
from lipdiag.weights.tensors import read_tensors


def zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name, data in records.items():
            new.writestr(name, data)
    return buffer.getvalue()


def reader(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))


def saved(name: str) -> bytes:
    """torch.save's archive of one tensor by a name."""
    buffer = io.BytesIO()
    torch.save({name: torch.zeros(4)}, buffer)
    return buffer.getvalue()


def plain(name: str) -> bytes:
    pickle = b"\x80\x02}U" + bytes([len(name)]) + name.encode() + b"K\x01s."
    return zipped({"a/data.pkl": pickle, "a/version": b"3\n", "a/byteorder": b"little"})


@pytest.mark.parametrize(
    "two", [plain("x")[:-22] + plain("y"), saved("x") + saved("y")], ids=["two tables, one end", "two whole archives"]
)
def test_two_tables_of_contents_are_refused(tmp_path, two):
    """zipfile takes the table before the end, torch the one where the end says that it is."""
    path = tmp_path / "two.pt"
    path.write_bytes(two)
    with zipfile.ZipFile(path) as archive:
        (pickle,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert b"y" in pickle
    assert list(torch.load(path, weights_only=True)) == ["x"], "the two readers agree, so this test shows nothing"
    with pytest.raises(CheckpointError, match=r"two ways|end records"):
        read_tensors(path)


def test_each_record_is_read_from_the_disk_once(tmp_path):
    class Counting(io.BytesIO):
        def readinto(self, buffer):
            counts.append(super().readinto(buffer))
            return counts[-1]

    counts: list[int] = []
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(10**6), "v": torch.zeros(10**6)}, buffer)
    archive = Archive(io.BufferedReader(Counting(buffer.getvalue())), "x.pt")
    storages = [archive.storage("0"), archive.storage("1")]
    archive.check_rest()
    assert [storage.numel() for storage in storages] == [4 * 10**6] * 2
    assert sum(counts) < 1.01 * len(buffer.getvalue())


def test_a_record_that_no_tensor_asks_for_is_checked_too(tmp_path):
    data = bytearray(zipped({"a/data.pkl": b"\x80\x02}.", "a/version": b"3", "a/data/0": b"unused!!"}))
    assert Archive(reader(data), "x.pt").check_rest() is None
    data[data.find(b"unused!!")] ^= 1
    with pytest.raises(CheckpointError, match=r"checksum of its record 'a/data/0'"):
        Archive(reader(data), "x.pt").check_rest()


def ends(start: int, told: int, large: bool = True) -> bytes:
    """What follows a table of contents of 2 records in 150 bytes, in the two kinds of archive."""
    if not large:
        return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 150, min(told, 2**32 - 1), 0)
    return (
        struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 150, told)
        + struct.pack("<4sLQL", b"PK\x06\x07", 0, start + 150, 1)
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 150, min(told, 2**32 - 1), 0)
    )


@pytest.mark.parametrize("start", [1000, 5 * 10**9])
def test_the_end_of_an_archive_of_any_size_is_understood(tmp_path, start):
    """Of 5 GB that are a hole of the file."""
    path = tmp_path / "large.pt"

    def check(end: bytes) -> None:
        with path.open("wb") as file:
            file.seek(start + 150)
            file.write(end)
        with path.open("rb") as file:
            check_end(file, path)

    check(ends(start, start))
    if start < 2**32:
        check(ends(start, start, large=False))
    for wrong in (ends(start, start - 1), ends(start + 7, start), ends(start, start)[7:]):
        with pytest.raises(CheckpointError):
            check(wrong)


@pytest.mark.parametrize(
    ("records", "word"),
    [
        ({"a/data.pkl": b"\x80\x02}."}, "not one that torch.save wrote"),
        ({"a/data.pkl": b"\x80\x02}.", "a/version": b"99"}, "version b'99'"),
        ({"a/data.pkl": b"\x80\x02}.", "a/version": b"3" * 100}, "100 bytes in its record version"),
    ],
)
def test_what_torch_does_not_write_is_refused(records, word):
    with pytest.raises(CheckpointError, match=word):
        Archive(reader(zipped(records)), "x.pt")
