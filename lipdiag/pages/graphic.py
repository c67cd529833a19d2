"""A figure as SVG inside a page: no identifier, style or colour of it touches the rest, and its points tell values.

matplotlib's SVG is taken apart: what only a file of its own needs (metadata, comments, the declaration) is left out,
identifiers get the figure's own prefix, and over each drawn point whose numbers stand in the figure's data lies an
invisible circle with these numbers.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np

from ..figures.canvas import Picture
from ..printing import Row, plain
from ..text import printable
from .html import Markup

FRACTION = re.compile(r"(?<=\d\.\d\d)\d+")
"""What is finer than a hundredth of a point, which nobody sees."""

REFERENCE = re.compile(r"url\(#([^)]*)\)")
RADIUS = 4.0
PLACES = ("timestep", "t", "sigma", "logsnr")


def inline(picture: Picture, prefix: str, name: str) -> Markup:
    """An `<svg>` element.

    Args:
        picture: One of `plot`.
        prefix: Of its identifiers; no two figures of a page have the same.
        name: What to call it where it cannot be seen.
    """
    root = ET.fromstring(picture.contents(".svg", transparent=True))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style", "title")):
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        for key in [key for key in node.attrib if "}" in key]:
            node.set(key.rpartition("}")[2], node.attrib.pop(key))
        for key in ("d", "x", "y"):
            if key in node.attrib:
                node.set(key, FRACTION.sub("", node.attrib[key]))
    isolate(root, prefix)
    for key, value in {"class": "figure", "role": "img", "aria-label": printable(name)}.items():
        root.set(key, value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.append(described(picture))
    return Markup(ET.tostring(root, encoding="unicode"))


def isolate(root: ET.Element, prefix: str) -> None:
    """Prefix the identifiers that are referred to, and drop the others."""
    used = set()
    for node in root.iter():
        for key, value in list(node.attrib.items()):
            if key == "href" and value.startswith("#"):
                used.add(value[1:])
                node.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                used.update(REFERENCE.findall(value))
                node.set(key, REFERENCE.sub(rf"url(#{prefix}\1)", value))
    for node in root.iter():
        known = node.attrib.pop("id", None)
        if known in used:
            node.set("id", f"{prefix}{known}")


def described(picture: Picture) -> ET.Element:
    """Invisible circles over the points of lines, each with the row of data it shows as its title."""
    group = ET.Element("g", {"class": "points"})
    scale = 72 / picture.dpi
    height = picture.get_figheight() * 72
    seen = set()
    for x, y, row in points(picture):
        place = f"{x * scale:.1f}", f"{height - y * scale:.1f}"
        if place in seen:
            continue
        seen.add(place)
        dot = ET.SubElement(group, "circle", {"cx": place[0], "cy": place[1], "r": f"{RADIUS:g}"})
        ET.SubElement(dot, "title").text = printable(spoken(row))
    return group


def points(picture: Picture) -> Iterator[tuple[float, float, Row]]:
    """Where lines show a row of the figure's data: pixels from the lower left corner, and the row."""
    levels: dict[float, list[Row]] = {}
    for row in picture.rows:
        if isinstance(mean := row.get("mean"), float):
            levels.setdefault(mean, []).append(row)
    for axes in picture.axes:
        for line in axes.lines:
            data = np.asarray(line.get_xydata(), dtype=np.float64)
            places = line.get_transform().transform(data) if len(data) else data
            for (x, y), (left, up) in zip(data, places, strict=True):
                shown = next((row for row in levels.get(y, []) if stands_at(row, x)), None)
                if shown is not None and axes.bbox.padded(1).contains(left, up):
                    yield left, up, shown


def stands_at(row: Row, x: float) -> bool:
    """Whether a row belongs at x, on any of the axes that figures have."""
    known = [value for name in PLACES if isinstance(value := row.get(name), float)]
    alike = [*known, *(value + 1 for value in known[:1]), *(np.exp(-value / 2) for value in known[3:])]
    return any(np.isclose(x, value, rtol=1e-9) for value in alike)


def spoken(row: Row) -> str:
    """A row of data in words."""

    def number(name: str) -> float:
        value = row.get(name)
        return float(value) if isinstance(value, int | float) else np.nan

    label, kind = str(row.get("series", "")), row.get("kind", "curve")
    said = f"{label}, timestep {number('timestep'):.6g}: {plain(number('mean'))}"
    if np.isfinite(number("low")):
        said += f", 95 % interval {plain(number('low'))} to {plain(number('high'))}"
    if np.isfinite(number("q05")):
        said += f", 90 % of the draws {plain(number('q05'))} to {plain(number('q95'))}, n = {number('draws'):g}"
    return said if kind == "curve" else f"{said}; {kind}"
