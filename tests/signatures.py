"""Types and shapes of every signature of the package are checked while tests run, at as little cost as it takes.

beartype checks a call's arguments and its result. Names of dimensions mean one number throughout a call: a call opens a
scope of them only where its signature has arrays, which is a few percent of all calls. (jaxtyping's own hook opens one
for every call, binds its arguments to do so and checks them twice, which took a third of the time of all tests.)
"""

import ast
import dataclasses
import functools
import inspect
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

NAME = "__checked__"
CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(thing):
    """The same function, or dataclass, refusing values that are not of the types and shapes written there."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__)
        return thing
    hints = resolved(thing)
    shapes = "".join(map(dimensions, hints.values()))
    if "{" in shapes or inspect.isgeneratorfunction(thing):  # a number among the arguments; what begins later
        return jaxtyped(thing, typechecker=CHECK)
    written, thing.__annotations__ = thing.__annotations__, hints
    found = CHECK(thing)
    thing.__annotations__ = written
    return scoped(found) if shapes else found


def scoped(function):
    """With names of dimensions of its own."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jaxtyped("context"):
            return function(*args, **kwargs)

    return call


def resolved(function) -> dict[str, Any]:
    """Annotations as types, without what is not there yet: imports for type checkers, the class around a method."""
    found = {}
    for name, hint in function.__annotations__.items():
        alone = type("Alone", (), {"__annotations__": {name: hint}})
        try:
            found |= get_type_hints(alone, function.__globals__, include_extras=True)
        except Exception:
            continue
    return found


def dimensions(hint: Any) -> str:
    """Those of all arrays in a type."""
    own = f"({hint.dim_str})" if inspect.isclass(hint) and issubclass(hint, AbstractArray) else ""
    parts = get_args(hint)
    return own + "".join(dimensions(part) for part in parts for part in (part if isinstance(part, list) else [part]))


class Checking(ast.NodeTransformer):
    """Puts the check nearest to a function, and furthest from a class, which its decorators make first."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(self.decorator(node))
        return node  # functions within it are made at every call, and would be checked anew

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, self.decorator(node))
        return self.generic_visit(node)

    def decorator(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(ast.Name(NAME, ast.Load()), node)


class Loader(SourceFileLoader):
    """Compiles a module with its checks, and never from or to a file, where others would find it."""

    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        return compile(Checking().visit(ast.parse(self.get_data(path), path)), path, "exec", dont_inherit=True)

    def exec_module(self, module) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)


class Finder(MetaPathFinder):
    def __init__(self, package: str):
        self.package = package

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def check(package: str) -> None:
    """From now on the modules of a package are imported with checks."""
    sys.meta_path.insert(0, Finder(package))
