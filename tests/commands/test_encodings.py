"""Files are UTF-8 in every locale, and a terminal of another encoding is no error."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import terminal
from harness.measure.record import find, load
from tests.host.processes import ROOT

C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ELSEWHERE = "gateway/guest/"
"""Runs in sandboxes, which have a locale of their own."""
TEXT = set("rwax+t")


def _mode(call: ast.Call, position: int) -> str | None:
    """The mode of a call that opens a file; None if it is not a constant."""
    given = [word.value for word in call.keywords if word.arg == "mode"]
    given += call.args[position : position + 1]
    if not given:
        return "r"
    value = given[0].value if isinstance(given[0], ast.Constant) else None
    return value if isinstance(value, str) else None


def _depends_on_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text without an encoding."""
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in options:
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) == 1
        case ast.Attribute(value=ast.Name(id="os"), attr="fdopen") | ast.Name(id="open"):
            mode = _mode(call, 1)
        case ast.Attribute(value=ast.Name(id="os" | "tarfile" | "gzip" | "webbrowser")):
            return False
        case ast.Attribute(attr="open"):
            # Of a path if it has a mode, or the object is built in place.
            path = isinstance(call.func.value, ast.BinOp) or bool(call.args or options)
            mode = _mode(call, 0) if path else None
        case ast.Attribute(attr="run" | "Popen" | "check_output" | "call"):
            return isinstance(options.get("text"), ast.Constant)
        case _:
            return False
    return mode is not None and set(mode) <= TEXT


def _calls() -> Iterator[str]:
    for directory in ("harness", "rigs", "examples", "tests"):
        for file in sorted((ROOT / directory).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if ELSEWHERE not in name:
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Call) and _depends_on_the_locale(node):
                        yield f"{name}:{node.lineno}: {ast.unparse(node)[:80]}"


def test_every_text_file_has_an_encoding() -> None:
    assert list(_calls()) == []


@pytest.mark.parametrize(
    ("source", "depends"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(x)", True),
        ("path.write_text(x, encoding='utf-8')", False),
        ("open('x')", True),
        ("open('x', 'rb')", False),
        ("(a / 'b').open()", True),
        ("path.open('w')", True),
        ("path.open('wb')", False),
        ("os.open('x', flags)", False),
        ("os.fdopen(3, 'w')", True),
        ("store.open()", False),
        ("subprocess.run(argv, text=True)", True),
        ("subprocess.run(argv, text=True, encoding='utf-8')", False),
    ],
)
def test_the_check_itself(source: str, depends: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert _depends_on_the_locale(call) == depends


def test_a_run_and_what_reads_it_need_no_locale(tmp_path: Path) -> None:
    results = tmp_path / "résultats"
    environment = {**os.environ, **C, "COPPICE_RUNTIME": str(tmp_path / "runtime")}

    def coppice(*argv: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *argv, "--results", os.fspath(results)],
            cwd=ROOT, env=environment, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    for _ in range(2):
        shown = coppice("run", "cold-start", "--substrate", "noop", "--concurrency", "1")
        assert b" us " in shown, "µ has a substitute"
    path, other = find(results)
    assert str(results) in load(path).command.argv[-1] or "résultats" in str(load(path).command)
    assert b" us " in coppice(
        "compare", path.name[:25], other.name[:25], "--suspect", "--fail-on", "never"
    )
    assert os.fsencode(results) in coppice("export", "--csv")
    assert b"of 2 records" in coppice("site", "--out", str(tmp_path / "site"))


REAL = {"de_DE.ISO-8859-1": ("ISO-8859-1", "für"), "ja_JP.eucJP": ("EUC-JP", "猫")}
"""Locales by name: their charmap, and a name that it has."""


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with these locales, which few hosts have."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/ja_JP").exists():
        pytest.skip("the sources of locales are not installed: apt-get install locales")
    made = tmp_path_factory.mktemp("locales")
    for name, (charmap, _) in REAL.items():
        language = name.partition(".")[0]
        # Its exit code counts warnings, too.
        subprocess.run(
            ["localedef", "-i", language, "-f", charmap, made / name], capture_output=True
        )
        assert (made / name / "LC_CTYPE").exists()
    return made


@pytest.mark.parametrize("name", REAL)
def test_a_real_locale_of_another_encoding(name: str, locales: Path, tmp_path: Path) -> None:
    charmap, text = REAL[name]
    own = os.fsencode(tmp_path) + b"/" + text.encode(charmap)
    environment = {**os.environ, "LC_ALL": name, "LOCPATH": str(locales), "PYTHONUTF8": "0"}

    def coppice(*argv: str | bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "harness", *argv]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)

    done = coppice("export", "--csv", "rig=policy-churn", "--out", own)
    assert done.returncode == 0 and own in done.stdout, done.stderr
    assert Path(os.fsdecode(own)).read_text(encoding="utf-8").startswith("run_id,")
    done = coppice("gateway", "keys", "--state", own + b".state", "--new", text.encode(charmap))
    assert done.returncode == 0 and text.encode(charmap) in done.stdout, done.stderr
    other = "é猫".encode()  # UTF-8, which ISO-8859-1 takes for other letters, and EUC-JP does not
    done = coppice("gateway", "keys", "--state", own + b".state", "--new", other)
    assert done.returncode == (64 if charmap == "EUC-JP" else 0), done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"2 us +-1 - 3 -> \u732b" + b"\n"),
        ("iso-8859-1", b"2 \xb5s \xb11 - 3 -> \\u732b\n"),
        ("euc_jp", b"2 us \xa1\xde1 - 3 \xa2\xaa \xc7\xad\n"),
        ("utf-8", "2 µs ±1 – 3 → 猫\n".encode()),
    ],
)
def test_what_an_encoding_lacks_has_a_substitute(
    encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    terminal.degrade()
    print("2 µs ±1 – 3 → 猫", flush=True)
    assert out.getvalue() == shown
