"""The matrix of the SDK's methods: the list is the SDK's own, and every method has a probe."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.endpoints import event_loop, session
from harness.endpoints import journal as journals
from harness.endpoints.client import RUN_METADATA
from harness.endpoints.settings import Limits
from harness.errors import SandboxError, Unsupported, UsageError
from harness.gateway.compat import at_endpoint, columns, environments
from harness.gateway.compat.columns import METHOD, OPERATION, Column, collect, results
from harness.gateway.compat.environments import Sdk
from harness.measure.collector import Collector
from harness.paths import cache_directory
from tests.endpoints.services import endpoint
from tests.host.processes import ROOT, eventually
from tests.stand_ins.server import Standing, standing_in

INVENTED = """
class class_method_variant:
    "A method of the class and of an object, as E2B's SDK has it."
    def __init__(self, name): pass
    def __call__(self, method): self.method = method; return self
    def __get__(self, own, kind): return self.method
class Commands:
    def run(self): ...
class AsyncCommands:
    async def run(self): ...
Commands.__module__, AsyncCommands.__module__ = "e2b.sandbox_sync.x", "e2b.sandbox_async.x"
class Sandbox:
    @classmethod
    def create(cls): ...
    @class_method_variant("_kill")
    def kill(self): ...
    def get_host(self): ...
    def brand_new(self): ...
    def _hidden(self): ...
    @property
    def commands(self) -> Commands: ...
    @property
    def sandbox_id(self) -> str: ...
class AsyncSandbox:
    @classmethod
    async def create(cls): ...
    @class_method_variant("_kill")
    async def kill(self): ...
    def get_host(self): ...
    async def brand_new(self): ...
    @property
    def commands(self) -> AsyncCommands: ...
class DualMethod:
    def __init__(self, one, other): self.one = one
    def __get__(self, own, kind): return self.one
async def _list(): ...
class Volume:
    list = DualMethod(_list, _list)
    def read_file(self): ...
class AsyncVolume:
    list = DualMethod(_list, _list)
    async def read_file(self): ...
class SandboxPaginator: ...
class AsyncSandboxPaginator: ...
class Template:
    @staticmethod
    def to_json(): ...
    def listed(self): ...
class AsyncTemplate:
    @staticmethod
    def to_json(): ...
    def listed(self) -> "AsyncSandboxPaginator": ...
class ApiClient:
    def call(self): ...
"""
"""An SDK with what the real ones have, to its module's name."""


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    (tmp_path / "e2b_code_interpreter.py").write_text(INVENTED, encoding="utf-8")
    return tmp_path


def surface(directory: Path, asynchronous: bool) -> Sequence[str]:
    code = f"import surface; print(*surface.methods({asynchronous}))"
    path = f"{directory}:{environments.PYTHON / 'probe'}"
    argv = [sys.executable, "-c", code]
    output = subprocess.check_output(argv, text=True, encoding="utf-8", env={"PYTHONPATH": path})
    return output.split()


def test_the_list_of_methods_is_read_from_the_sdk(invented: Path) -> None:
    of_all = [
        "Sandbox.create", "Volume.list", "commands.run", "sandbox.brand_new", "sandbox.get_host",
        "sandbox.kill", "template.listed", "volume.list", "volume.read_file",
    ]  # fmt: skip
    for asynchronous in (False, True):
        assert sorted(surface(invented, asynchronous)) == of_all


@pytest.mark.parametrize(
    "column", columns.columns(environments.all_sdks()), ids=lambda column: column.name
)
def test_every_method_of_an_sdk_has_a_probe(column: Column) -> None:
    if not column.sdk.is_installed(cache_directory()):
        pytest.skip(f"{column.sdk.name} is not installed: coppice run e2b-compat installs it")
    found = column.surface(cache_directory())
    assert len(found) > 80
    assert [name for name, probed in found.items() if not probed] == []


# A column and its verdicts.

REPORT = [
    {"method": "Sandbox.create", "kind": None, "reason": ""},
    {"method": "sandbox.fork", "kind": "missing", "reason": "404 with e2b_secret"},
    {"method": "sandbox.brand_new", "kind": "failed", "reason": "not probed"},
    {"operation": "GET /x", "plane": "control plane", "kind": None, "reason": ""},
]


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> Column:
    """A column whose probe is a script of this interpreter."""
    argv = (sys.executable, "-c", textwrap.dedent(script))
    monkeypatch.setattr(Sdk, "command", lambda *_: argv)
    return Column(Sdk("python-9.9.9", "python", "9.9.9"), "sync")


def of(column: Column, *options: str) -> Sequence[columns.Result]:
    service = {True: dict(os.environ), False: dict(os.environ)}
    return list(results([column], Path("/nowhere"), 1, service, options))


def test_verdicts_become_series_and_a_method_without_a_probe_breaks_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [json.dumps(line) for line in REPORT]
    (result,) = of(scripted(monkeypatch, f"print(*{lines!r}, sep='\\n')"))
    into = Collector()
    collect(result, into, lambda text: text.replace("e2b_secret", "(left out)"), system="theirs")
    works, fork, new, operation = into.series
    common = {"sdk": "python-9.9.9", "classes": "sync", "system": "theirs"}
    assert works.metric == METHOD and works.samples == [1.0] and not works.failures
    assert works.dimensions == {**common, "method": "Sandbox.create"}
    assert fork.samples == [0.0] and fork.failures[0].kind == "missing"
    assert fork.failures[0].reason == "404 with (left out)"
    assert new.failures[0].kind is None
    assert into.broken == ["python-9.9.9 sync has a method without a probe: sandbox.brand_new"]
    assert operation.metric == OPERATION and operation.dimensions["plane"] == "control plane"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("", "ended with 0 after 0 verdicts"),
        ("import sys; sys.exit('no module named e2b')", "ended with 1.*no module named e2b"),
        (
            'import os; print(\'{"method": "x", "kind": null, "reason": ""}\', flush=True);'
            "os.kill(os.getpid(), 9)",
            "ended with -9 after 1",
        ),
    ],
)
def test_a_probe_that_ends_early_is_an_error(
    monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    with pytest.raises(SandboxError, match=says):
        of(scripted(monkeypatch, script))


def test_an_sdk_that_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*_: object) -> Sequence[str]:
        raise Unsupported("no package index")

    column = scripted(monkeypatch, "")
    monkeypatch.setattr(Sdk, "command", command)
    (result,) = of(column)
    assert (result.verdicts, result.unsupported) == ((), "no package index")


def test_a_run_that_is_interrupted_ends_its_probes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"""
        import os, sys, time
        if sys.argv[1] == "async":
            with open({str(tmp_path / "new")!r}, "w") as file:
                file.write(str(os.getpid()))
            os.rename({str(tmp_path / "new")!r}, {str(tmp_path / "pid")!r})
            time.sleep(600)
        while not os.path.exists({str(tmp_path / "pid")!r}):
            time.sleep(0.01)
        print('{{"method": "x", "kind": null, "reason": ""}}')
    """
    sdk = scripted(monkeypatch, "").sdk
    argv = (sys.executable, "-c", textwrap.dedent(script))
    monkeypatch.setattr(Sdk, "command", lambda _, cache, classes: (*argv, classes))
    service = {False: dict(os.environ)}
    both = [Column(sdk, "sync"), Column(sdk, "async")]
    found = results(both, Path("/nowhere"), 2, service)
    assert next(iter(found)).verdicts
    found.close()
    assert not Path("/proc", (tmp_path / "pid").read_text(encoding="utf-8")).exists()


# What a failure means.


@pytest.mark.parametrize(
    ("error", "seen", "alive", "kind"),
    [
        (ValueError("405: method not allowed"), (), True, "missing"),
        (ValueError("not found"), (("POST", "/v3/templates", 404),), True, "missing"),
        (ValueError("not found"), (("POST", "/sandboxes/x/fork", 404),), False, "differs"),
        (AssertionError("unlike E2B: False"), (("GET", "/volumes", 404),), True, "missing"),
        (AssertionError("unlike E2B: 'a'"), (("GET", "/sandboxes/x", 200),), True, "differs"),
        (ValueError("Unimplemented: process.Process/StreamInput"), (), True, "missing"),
        (ValueError("400: mcp is not offered by this service"), (), True, "refused"),
        (ValueError("501: volumes are not yet supported"), (), True, "refused"),
        (ValueError("501: "), (), True, "missing"),
        (ValueError("403: forbidden"), (), True, "not-offered"),
        (ValueError("400: your plan has no volumes"), (), True, "not-offered"),
        (ValueError("404: template 'mcp-gateway' not found"), (), True, "not-offered"),
        (ValueError("500: it broke"), (("POST", "/sandboxes", 500),), True, "differs"),
        (ValueError("Error 503: later"), (), True, "differs"),
    ],
)
def test_what_a_failure_means(
    monkeypatch: pytest.MonkeyPatch, error: Exception, seen: Sequence[Any], alive: bool, kind: str
) -> None:
    monkeypatch.syspath_prepend(str(environments.PYTHON / "probe"))
    verdicts = pytest.importorskip("verdicts")
    found, reason = verdicts.judged(error, list(seen), alive)
    assert found == kind and str(error) in reason
    assert not seen or seen[-1][2] < 400 or f"answered {seen[-1][2]}" in reason


# At a service.

LIMITS = Limits(most_sandboxes=4, most_per_second=50.0)
LEAVES = """
    import json, os, sys, urllib.request
    name, value = sys.argv[2].split("=")
    for _ in range(2):
        body = {"templateID": "base", "timeout": 300, "metadata": {name: value}}
        headers = {"X-API-KEY": os.environ["E2B_API_KEY"], "Content-Type": "application/json"}
        address = os.environ["E2B_API_URL"] + "/sandboxes"
        urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers))
    print('{"method": "x", "kind": null, "reason": ""}', flush=True)
"""
"""A probe that leaves two sandboxes."""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path))
    with standing_in("honest") as standing:
        yield standing


def test_what_the_sdks_leave_is_deleted_and_told(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = endpoint(service, limits=LIMITS)
    monkeypatch.setattr(os, "environ", {**os.environ, **at_endpoint.sdk_environment(at)})
    column = scripted(monkeypatch, LEAVES)
    told: list[str] = []
    with session.begun(at, "run-1", told.append) as begun:
        event_loop.run(at_endpoint.greeted(at, begun.journal))
        begun.journal.asked(60.0)
        at_once, options = at_endpoint.paced(at, "run-1")
        assert at_once == 1
        of(column, *options)
        assert len(service.service.counts()["alive"]) == 2
        doubts = event_loop.run(at_endpoint.cleared(at, begun.journal))
    assert doubts == ["the SDKs left 2 sandboxes, which were deleted"]
    assert told == [] and service.service.counts()["alive"] == []
    assert journals.dead(at.address) == []


def test_what_a_killed_run_has_left_is_deleted_by_the_next(
    service: Standing, tmp_path: Path
) -> None:
    """The process is killed while its SDKs run: their sandboxes have its id as metadata alone."""
    at = endpoint(service, limits=LIMITS)
    program = tmp_path / "killed.py"
    program.write_text(
        textwrap.dedent(f"""
            import subprocess, sys, time
            from harness.endpoints import journal
            from tests.endpoints.services import endpoint
            from harness.endpoints.settings import Endpoint
            at = Endpoint("stand-in", "stand-in", {at.address!r}, {at.key!r})
            with journal.opened(at, "run-2") as of_run:
                of_run.asked(60.0)
                subprocess.run([sys.executable, "-c", {textwrap.dedent(LEAVES)!r},
                                "--tag", "{RUN_METADATA}=run-2"], check=True)
                print("made", flush=True)
                time.sleep(60)
        """),
        encoding="utf-8",
    )
    environment = {**os.environ, **at_endpoint.sdk_environment(at), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout
        while process.stdout.readline().strip() != b"made":
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    assert len(service.service.counts()["alive"]) == 2
    assert len(session.reclaim(at, lambda _: None).deleted) == 2
    eventually(lambda: service.service.counts()["alive"] == [])


def test_what_the_sdks_cannot_do_is_refused_before_anything_is_made(service: Standing) -> None:
    at = endpoint(service, limits=LIMITS)
    for wrong, says in (
        (dataclasses.replace(at, headers={"X-Own": "secret-value"}), "headers of its own"),
        (dataclasses.replace(at, verify=False), "not to be checked"),
    ):
        with pytest.raises(UsageError, match=says):
            at_endpoint.sdk_environment(wrong)
    far = dataclasses.replace(at, address="https://api.cube.example", sandbox_url=None)
    assert at_endpoint.sdk_environment(far)["E2B_DOMAIN"] == "cube.example"
    own = dataclasses.replace(far, domain="other.example")
    assert at_endpoint.sdk_environment(own)["E2B_DOMAIN"] == "other.example"
    few = dataclasses.replace(at, limits=Limits(3, 50.0))
    with pytest.raises(UsageError, match="has 4 sandboxes at once"):
        at_endpoint.paced(few, "run-3")
    many = dataclasses.replace(at, template="own", limits=Limits(100, 6.0))
    at_once, options = at_endpoint.paced(many, "run-3")
    assert at_once == at_endpoint.COLUMNS_MOST
    assert options == ["--tag", f"{RUN_METADATA}=run-3", "--apart", "0.5", "--template", "own"]
    assert service.service.counts()["made"] == 0
