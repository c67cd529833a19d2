"""HTML as text that is escaped unless it was made here.

Names, paths and attributes of a run are strangers' text: a plain string put into an element is escaped, and what no
reader could see (control characters, marks that turn the direction of writing) is spelled out.
"""

import html
from collections.abc import Iterable

from ..text import printable

ALONE = ("meta", "br", "hr", "link", "input")
"""Elements without content."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Text as HTML, also inside quotes."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(str(text)), quote=True))


def several_lines(text: str) -> Markup:
    """Text as HTML whose line breaks stay, also inside quotes."""
    return Markup(html.escape(printable(text, keep="\n"), quote=True))


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element; content and the values of attributes are escaped.

    Args:
        name: Of the element.
        content: Text, markup, or lists of them.
        attributes: `class_` is `class`, `data_value` is `data-value`; None and False are left out, True has no value.
    """
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        opening += f" {spelled}" if value is True else f' {spelled}="{escaped(value)}"'
    return Markup(f"<{opening}>" if name in ALONE else f"<{opening}>{joined(content)}</{name}>")


def joined(content: Iterable[object]) -> Markup:
    """Pieces one after the other."""
    return Markup("".join(joined(c) if isinstance(c, list | tuple) else escaped(c) for c in content))
