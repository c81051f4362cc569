"""The runtime checks of the tests: shapes and types of every function of darts_msft that names a shape.

jaxtyping's import hook decorates all functions, and its own decorator checks every call twice, which takes longer than
the tiny models themselves. Here a module of tests checks a function once for each set of its arguments' shapes; mypy
has seen the functions without shapes.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float too (PEP 484)
_seen: set[tuple[Any, ...]] = set()


def install() -> None:
    """Before darts_msft is first imported."""
    jaxtyping.jaxtyped = functools.partial(_checked, in_scope=jaxtyping.jaxtyped)


def start_afresh() -> None:
    """All calls are new again."""
    _seen.clear()


def _checked(decorated: Any = None, *, typechecker: Callable[[Any], Any], in_scope: Callable[[str], Any]) -> Any:
    """A decorator; what it decorates is a class, a function, or a method in its staticmethod or property."""
    again = functools.partial(_checked, typechecker=typechecker, in_scope=in_scope)
    if decorated is None:
        return again
    if isinstance(decorated, classmethod | staticmethod):
        return type(decorated)(again(decorated.__func__))
    if isinstance(decorated, property):
        return property(*(part and again(part) for part in (decorated.fget, decorated.fset, decorated.fdel)))
    if inspect.isclass(decorated) or inspect.isgeneratorfunction(decorated) or not _names_a_shape(decorated):
        return decorated  # a generator runs after its call
    inner = typechecker(decorated)

    @functools.wraps(decorated)
    def function(*arguments: Any, **options: Any) -> Any:
        given = (*arguments, *options.values())
        call = (decorated, *(one.shape if hasattr(type(one), "shape") else None for one in given))
        if call in _seen:
            return decorated(*arguments, **options)
        _seen.add(call)
        with in_scope("context"):  # axes of one name have one size within a call
            return inner(*arguments, **options)

    return function


def _names_a_shape(function: Any) -> bool:
    """Also under a name of its own, as in `Series = Sequence[Float[np.ndarray, "_ V"]]`."""
    annotations = " ".join(map(str, function.__annotations__.values()))
    return "jaxtyping" in annotations or any(
        "jaxtyping" in str(function.__globals__.get(name)) for name in set(re.findall(r"\w+", annotations))
    )
