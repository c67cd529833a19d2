"""Files with random damage, given to every reader: `python -m tests.safety.fuzzing COUNT SEED FOLDER`.

Half of the damage is to bytes; the other half is repaired on the outside (an archive's checksums, the checksum of a
chunk), so that it gets past the first check. Each mutant must be read or be refused by the one exception of its kind,
within the limits of `guard`, and nothing but reading may happen.
"""

import io
import json
import random
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.safety import guard
from tests.safety.readers import READERS, Reader, copy

NASTY = "\ud800\x1b[31m\u202e\n<b>$x_"
BOUNDARIES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\x80", b"-1", b"1e999")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four random changes."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(found) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            del found[place:]
        elif kind == 1 and found:
            found[place % len(found)] = chance.randrange(256)
        elif kind == 2 and found:
            found[place % len(found)] ^= 1 << chance.randrange(8)
        elif kind == 3:
            found[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        elif kind == 4:
            boundary = chance.choice(BOUNDARIES)
            found[place : place + len(boundary)] = boundary
        elif kind == 5:
            del found[place : place + chance.randint(1, 32)]
        else:
            other = chance.randrange(len(found) + 1)
            found[place:place] = found[other : other + chance.randint(1, 64)]
    return bytes(found)


def damaged_inside(data: bytes, chance: random.Random) -> bytes:
    """A zip archive with one record damaged and every checksum right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        victim = chance.choice(old.namelist() + [name for name in old.namelist() if name.endswith(".pkl")] * 3)
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info, damaged(content, chance) if info.filename == victim else content)
    return buffer.getvalue()


def damaged_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON text with one value, somewhere, replaced by one of another kind."""
    root = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(item, dict | list):
                walk(item)

    walk(root)
    for _ in range(chance.randint(1, 2)):
        holder, key = chance.choice(places)
        deep: list[Any] = []
        for _ in range(900):
            deep = [deep]
        strange = [None, True, -1, 0, 10**9, 10**30, 1.5, "", "x" * 99, "../../etc", [], {}, [0] * 9, {"a": {}}, "\0"]
        strange += [NASTY, deep, float("nan"), -(10**9), ["\ud800"], {NASTY: NASTY}]
        holder[key] = chance.choice(strange)
    return json.dumps(root).encode()


def agreeing(path: Path, chance: random.Random) -> None:
    """A store with the metadata of an array damaged in both of their places alike."""
    root = json.loads((path / "zarr.json").read_text())
    table = root["consolidated_metadata"]["metadata"]
    name = chance.choice(sorted(table))
    table[name] = json.loads(damaged_json(json.dumps(table[name]).encode(), chance))
    (path / "zarr.json").write_text(json.dumps(root))
    (path / name / "zarr.json").write_text(json.dumps(table[name]))


def mutate(path: Path, chance: random.Random) -> None:
    """Damage a file, or one of the files of a folder."""
    if path.suffix == ".zarr" and chance.random() < 0.3:
        return agreeing(path, chance)
    if path.is_dir():
        path = chance.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    data = path.read_bytes()
    if chance.random() < 0.5 and zipfile.is_zipfile(path):
        data = damaged_inside(data, chance)
    elif chance.random() < 0.7 and path.suffix == ".json":
        data = damaged_json(data, chance)
    elif chance.random() < 0.5 and path.suffix == ".safetensors":
        length = int.from_bytes(data[:8], "little")
        header = damaged_json(data[8 : 8 + length], chance)
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    elif (chance.random() < 0.5 and path.parent.parent.name == "c") or path.parent.name == "c":
        import google_crc32c

        values = damaged(data[:-4], chance)[: len(data) - 4].ljust(len(data) - 4, b"\0")
        data = values + google_crc32c.value(values).to_bytes(4, "little")
    else:
        data = damaged(data, chance)
    path.write_bytes(data)
    return None


def verdict(reader: Reader, found: dict[str, Any]) -> str:
    """`read`, `refused`, or what is wrong."""
    error = found["error"]
    if found["too_long"]:
        return f"ESCAPE took {found['seconds']:.1f} s"
    if found["too_large"]:
        return f"ESCAPE took {found['bytes'] / 1e9:.1f} GB"
    if found["acts"]:
        return f"ESCAPE led to {found['acts'][:3]}"
    if error is None:
        return "read"
    if not isinstance(error, reader.refusals):
        return f"ESCAPE raised {type(error).__name__}: {str(error)[:200]}"
    text = str(error)
    if not text.isprintable() or len(text) > 1000 or "weights_only" in text:
        return f"ESCAPE says {text[:300]!r}"
    return "refused"


def fuzz(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Numbers of mutants read, refused and escaped, by reader; escapes are kept in the folder."""
    chance, tally, escapes = random.Random(seed), Counter(), []
    slowest, largest = 0.0, 0
    for reader in READERS.values():
        reader.make(folder / reader.suffix)
        reader.read(folder / reader.suffix)  # what is imported for good files is imported now
        mutant = folder / f"mutant-{reader.suffix}"
        copy(folder / reader.suffix, mutant)
        (mutant if mutant.is_file() else next(f for f in sorted(mutant.rglob("*")) if f.is_file())).write_bytes(b"\0")
        guard.guarded(reader.read, mutant)  # and for bad ones
    names = [name for name, reader in READERS.items() for _ in range(int(12 / reader.cost))]
    for number in range(count):
        reader = READERS[chance.choice(names) if number >= 4 * len(READERS) else list(READERS)[number % len(READERS)]]
        mutant = folder / f"mutant-{reader.suffix}"
        copy(folder / reader.suffix, mutant)
        mutate(mutant, chance)
        found = guard.guarded(reader.read, mutant)
        said = verdict(reader, found)
        tally[f"{reader.name} {said.split()[0]}"] += 1
        slowest, largest = max(slowest, found["seconds"]), max(largest, found["bytes"])
        if said.startswith("ESCAPE"):
            escapes.append(f"{reader.name} {number}: {said}")
            copy(mutant, folder / f"escape{number}-{reader.suffix}")
    return {"mutants": count, "tally": tally, "escapes": escapes, "slowest": slowest, "largest": largest}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    guard.install()
    began = time.time()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(place)
        result = fuzz(folder, int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({**result, "seconds": round(time.time() - began)}))
    sys.exit(bool(result["escapes"]))
