"""A figure as a paper includes it: the LaTeX of its float, with its caption."""

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def escaped(text: str) -> str:
    """A text as LaTeX prints it, letter by letter."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def snippet(name: str, caption: str) -> str:
    """The float of a figure.

    Args:
        name: Of the figure, whose file is that of `lipdiag plot --figure NAME`.
        caption: Under it.
    """
    lines = [r"\begin{figure}[t]", r"  \centering", rf"  \includegraphics[width=\columnwidth]{{{name}.pdf}}"]
    lines += [rf"  \caption{{{escaped(caption)}}}", rf"  \label{{fig:{name}}}", r"\end{figure}"]
    return "\n".join(lines)
