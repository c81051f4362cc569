"""Files written whole or not at all, and read whole: what fails or is killed on the way leaves what was there."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError


def check_whole(*paths: str) -> None:
    """Raises ValueError for a file of torch's, which is a zip archive, that is not as it was written.

    torch reads changed numbers as they are. What is not there is left to other checks.
    """
    for path in filter(os.path.isfile, paths):
        with open(path, "rb") as file:
            try:
                broken = zipfile.ZipFile(file).testzip()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                broken = str(error)
        if broken is not None:
            raise ValueError(
                f"{path!r} is no file of a saved model, or broken or cut short ({broken}): copy it again, or save the "
                "model anew"
            )


@contextmanager
def in_place_of(path: str | Path) -> Iterator[Path]:
    """A path of the same name, in a new folder beside `path`: all files written there go beside `path` in the end.

    Those of the same names are replaced, one after the other. An error that says so leaves all as it was.
    """
    target = Path(path)
    folder = target.with_name(f".{target.name}.{uuid4().hex}.new")
    try:
        with named_if_unwritten(target):
            folder.mkdir()
            yield folder / target.name
            for file in sorted(folder.iterdir(), reverse=True):  # what goes with `path` before it
                os.replace(file, target.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def named_if_unwritten(target: Path) -> Iterator[None]:
    """What stops a write, such as a full disk, as OSError that names `target`; libraries have errors of their own."""
    try:
        yield
    except Exception as error:
        found = _of_the_system(error)
        if found is None:
            raise
        why = f"{str(target)!r} was not written, and what was there is as it was: {found.strerror or found}"
        raise OSError(found.errno, why) from error


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system's error within another one, if there is any."""
    while error is not None and not isinstance(error, OSError):
        if isinstance(error, SafetensorError) and (code := re.search(r"os error (\d+)", str(error))):
            return OSError(int(code[1]), os.strerror(int(code[1])))
        error = error.__cause__ or error.__context__
    return error
