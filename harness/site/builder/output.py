"""Where a build puts its files, so that whoever reads the site meanwhile sees whole pages only.

A site that nothing can be kept of is made beside the old one and takes its place by renaming. Of
one that the same code made, only the files that are new or other are made, within the site in a
hidden directory. Renaming that directory says that they are all there; then they take their places
one by one, pages that are new before those that lead to them, and what belongs to the site no
longer goes last. A build that was killed meanwhile is finished by the next one.

A site's marker says that the directory is ours, and what its files were made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.site.builder.manifest import Marker

MARKER = ".coppice-site"
"""Says that a directory is a site of ours and may be replaced."""
_NEXT, _READY = ".coppice-next", ".coppice-ready"
"""Within a site: files that are being made, and files that are all there to take their places."""
_GONE = ".coppice-gone"
"""Among those that are ready: the names of files that go."""
_UNFINISHED = ".coppice-unfinished"
"""In a whole site that is being made."""


class Directory:
    """A site in the making. As a context manager: what was made goes away unless it is placed.

    One build at a time writes to a site; another waits. `before` is what the site that is there was
    made of: nothing, if other code made it, or `again` asks for all of it.
    """

    def __init__(self, out: Path, code: str, *, again: bool = False) -> None:
        self.out = Path.cwd() / out
        if self.out.exists() and (
            not self.out.is_dir() or (any(self.out.iterdir()) and not (self.out / MARKER).exists())
        ):
            raise UsageError(
                f"{self.out} is there already and is not a site that this command built",
                hint="name another directory with --out, or remove it yourself",
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()
        self._code, self._again = code, again

    def __enter__(self) -> Directory:
        with contextlib.ExitStack() as stack:
            if _lock(self.out, stack):
                _finish(self.out)
            found = None if self._again else _remembered(self.out, self._code)
            self.before = found or Marker(self._code)
            self._kept = _files(self.out) if found else frozenset()
            if found:
                self.fresh = self.out / _NEXT
                shutil.rmtree(self.fresh, ignore_errors=True)
                self.fresh.mkdir()
                stack.callback(shutil.rmtree, self.fresh, ignore_errors=True)
            else:
                self._beside(stack)
            self._directories: set[str] = set()
            self._held = stack.pop_all()
        return self

    def _beside(self, stack: contextlib.ExitStack) -> None:
        """Make a whole site beside the old one; what killed builds left there goes."""
        for left in self.out.parent.glob(f".{self.out.name}-*/{_UNFINISHED}"):
            with contextlib.ExitStack() as theirs:
                if _lock(left.parent, theirs, wait=False):
                    shutil.rmtree(left.parent, ignore_errors=True)
        self.fresh = self._new(stack)
        self.fresh.chmod(0o755)

    def _new(self, stack: contextlib.ExitStack) -> Path:
        made = Path(tempfile.mkdtemp(dir=self.out.parent, prefix=f".{self.out.name}-"))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        _lock(made, stack)
        (made / _UNFINISHED).touch()
        return made

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _within(self, path: str) -> str:
        directory = os.path.dirname(path)  # noqa: PTH120  (for thousands of files)
        if directory not in self._directories:
            (self.fresh / directory).mkdir(parents=True, exist_ok=True)
            self._directories.add(directory)
        return f"{self.fresh}/{path}"

    def write(self, path: str, content: bytes) -> None:
        """Make a file, unless the site that is there has the very same."""
        if path in self._kept:
            old = Path(f"{self.out}/{path}")
            with contextlib.suppress(OSError):
                if old.stat().st_size == len(content) and old.read_bytes() == content:
                    return
        Path(self._within(path)).write_bytes(content)

    def keeps(self, paths: Iterable[str]) -> bool:
        """Whether the site that is there has these files."""
        return self._kept.issuperset(paths)

    def place(self, marker: Marker, files: Iterable[str]) -> None:
        """Make the site out of `files`: those that were written, and those that it kept."""
        self.write(MARKER, marker.dump())
        if self._kept:
            gone = sorted(self._kept.difference(files, (MARKER,)))
            (self.fresh / _GONE).write_text(json.dumps(gone))
            self.fresh.rename(self.out / _READY)
            _finish(self.out)
            return
        if self.out.exists():
            old = self._new(self._held)
            self.out.rename(old / self.out.name)
            try:
                self.fresh.rename(self.out)
            except OSError:
                (old / self.out.name).rename(self.out)
                raise
        else:
            self.fresh.rename(self.out)
        (self.out / _UNFINISHED).unlink()


def _lock(directory: Path, stack: contextlib.ExitStack, *, wait: bool = True) -> bool:
    """Hold a directory until the stack closes; False when there is none, or another has it."""
    while True:
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Another build may have put a new site in its place while this one waited.
            if directory.exists() and os.path.samestat(os.fstat(handle), directory.stat()):
                stack.callback(os.close, handle)
                return True
        except BlockingIOError:
            os.close(handle)
            return False
        os.close(handle)


def _walk(directory: Path) -> Iterator[tuple[str, str]]:
    """Every file below a directory: the directory it is in, with a slash, and its name."""
    for where, inner, names in os.walk(directory):
        inner[:] = [one for one in inner if one not in (_NEXT, _READY)]
        head = f"{os.path.relpath(where, directory)}/" if where != str(directory) else ""
        for name in names:
            yield head, name


def _files(directory: Path) -> frozenset[str]:
    return frozenset(head + name for head, name in _walk(directory))


def _finish(out: Path) -> None:
    """Put what is ready into its place; what a killed build did not come to, too."""
    ready = out / _READY
    if not ready.is_dir():
        return
    made = sorted(
        _files(ready) - {_GONE},
        key=lambda path: (path == MARKER, (out / path).exists(), path.endswith(".html"), path),
    )
    for path in made:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (ready / path).replace(out / path)
    try:
        gone = json.loads((ready / _GONE).read_bytes())
    except FileNotFoundError:
        gone = []
    emptied = set()
    for path in gone:
        (out / path).unlink(missing_ok=True)
        emptied.add((out / path).parent)
    for directory in sorted(emptied, reverse=True):
        with contextlib.suppress(OSError):  # what is not empty stays
            directory.rmdir()
    shutil.rmtree(ready)


def _remembered(out: Path, code: str) -> Marker | None:
    """What the site in `out` was made of, if the same code made it and its marker is whole."""
    try:
        with (out / MARKER).open("rb") as file:
            return Marker.load(file, code)
    except OSError:
        return None
