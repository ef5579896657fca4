"""Run rigs and keep their records; then say in a table what was measured.

Exit codes: 0 all that could run did; 1 a rig failed; 69 what was asked for cannot run here. SIGINT,
SIGTERM and SIGHUP end it once everything is taken down: 130, 143, 129. A second one does not wait.
"""

from __future__ import annotations

import argparse
import copy
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from harness import paths
from harness.errors import (
    CoppiceError,
    Interrupted,
    PathError,
    PluginError,
    Unsupported,
    UsageError,
)
from harness.host.leftovers import reclaim
from harness.measure.record import digest, find, write_atomically
from harness.measure.selection import INTERLEAVE
from harness.paths import runtime_directory
from harness.rig import summary
from harness.rig.discovery import discover, substrates_of
from harness.rig.info import RigInfo
from harness.sandbox.protocol import Tier, refused
from harness.sandbox.protocol import load as load_substrate

HELP = "run rigs and keep their records"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ISOLATED = (sys.executable, "-P")
"""A Python that does not import from the directory that the user happens to be in."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rig", nargs="?", help="its id, e.g. cold-start")
    parser.add_argument("--all", action="store_true", help="every rig that can run here")
    parser.add_argument("--substrate", action="append", default=[])
    parser.add_argument("--tier", action="append", default=[])
    parser.add_argument("--concurrency", action="append", type=int, default=[])
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--site", action="store_true", help="build the site afterwards")
    parser.add_argument(
        "--results",
        type=Path,
        default=paths.default_results(),
        metavar="DIR",
        help="where records go (default: ./results)",
    )
    parser.add_argument(
        "--interleave",
        nargs=2,
        metavar=("A", "B"),
        help="two configurations that take turns (A B B A …), each of NAME=VALUE pairs joined by "
        "commas: tier=full, an option of the rig, or a COPPICE_ variable; then compare them",
    )
    parser.add_argument("--rounds", type=int, default=10, help="of --interleave (default: 10)")
    for name, (info, rigs) in sorted(_options_of_rigs().items()):
        # What no rig asks for must not look like an option of every run.
        whose = f"({', '.join(rigs)})"
        if name in info.flags:
            parser.add_argument(
                f"--{name}",
                action="store_const",
                const="yes",
                help=f"{info.flags[name]} {whose}",
            )
        else:
            parser.add_argument(f"--{name}", metavar="VALUE", help=f"{info.options[name]} {whose}")


def _options_of_rigs() -> dict[str, tuple[RigInfo, list[str]]]:
    """The options and flags that rigs declare: name -> a rig that says what it means, and whose."""
    found: dict[str, tuple[RigInfo, list[str]]] = {}
    for id, rig in discover().found.items():
        for name in (*rig.info.options, *rig.info.flags):
            found.setdefault(name, (rig.info, []))[1].append(id)
    return found


def main(options: argparse.Namespace) -> int:
    discovered = discover()
    rigs = discovered.found
    for where, why in {**refused(), **discovered.broken}.items():
        print(f"coppice: left out {where}: {why}", file=sys.stderr)
    if options.rig is not None and options.rig not in rigs:
        raise UsageError(f"no rig is called {options.rig!r}; there are {', '.join(sorted(rigs))}")
    if options.rig is None and not options.all:
        raise UsageError("name a rig, or say --all", hint=f"rigs: {', '.join(sorted(rigs))}")
    for tier in options.tier:
        if tier not in tuple(Tier):
            raise UsageError(f"no tier is called {tier!r}; there are {', '.join(Tier)}")
    for name in options.substrate:
        _refuse_at_once(name, (options.tier or ["full"])[0])
    _refuse_unwritable(options.results)
    chosen = [rig for id, rig in rigs.items() if options.rig in (None, id)]
    infos = [rig.info for rig in chosen]
    _refuse_unwanted(infos, options.substrate)
    given = _given(options, infos)
    files = [rig.path for rig in chosen]
    before = set(find(options.results))
    if options.interleave:
        return _take_turns(files, options, infos)
    code = _pytest(files, options, given)
    made = [path for path in find(options.results) if path not in before]
    for line in summary.lines(made) if options.rig else ():
        print(line)
    if made:
        print(f"\nrecords: {made[0].parent}")
    if options.site and made:
        code = _build_site(options.results) or code
    if not made and code == 0:
        raise Unsupported("nothing of what was asked for can run here", hint="coppice doctor")
    return code


def there(options: argparse.Namespace, words: Sequence[str]) -> int:
    """The same on the host that COPPICE_HOST names, whose records are brought here."""
    from harness.remote import remote_run

    _refuse_unwritable(options.results)
    before = set(find(options.results))
    code = remote_run.run_remotely(
        remote_run.address(),
        remote_run.drop_options(words, "--results", flags=["--site"]),
        options.results,
    )
    made = [path for path in find(options.results) if path not in before]
    if made:
        print(f"brought back: {made[0].parent}")
    if options.site and made:
        code = _build_site(options.results) or code
    return code


def _build_site(results: Path) -> int:
    # In a process of its own: what renders pages is never loaded beside a measurement.
    site = [*ISOLATED, "-m", "harness.cli", "site", "--results", str(results)]
    return subprocess.call(site)


LISTS = ("substrate", "tier", "concurrency")
"""Options that choose among a rig's cases, and may be given several times."""


def _take_turns(files: list[Path], options: argparse.Namespace, rigs: Sequence[RigInfo]) -> int:
    """Run two configurations in turns and compare them round by round.

    Every record says which turn it was, so that `coppice compare` can do it again.
    """
    from harness.commands import compare

    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}: at least one round is needed")
    before = set(find(options.results))
    session = secrets.token_hex(4)
    arms = {"a": options.interleave[0], "b": options.interleave[1]}
    settings = {arm: _arm(text, options, rigs) for arm, text in arms.items()}
    for number in range(options.rounds):
        # A B, then B A: what drifts steadily drifts in both alike.
        for arm in ("ab", "ba")[number % 2]:
            own, environment = settings[arm]
            turn = {**environment, INTERLEAVE: f"{session}/{arm}/{number}"}
            code = _pytest(files, own, _given(own, rigs), turn)
            if code:
                return code
    if not set(find(options.results)) - before:
        raise Unsupported("nothing of what was asked for can run here", hint="coppice doctor")
    sides = [f"interleave={session}/{arm}" for arm in arms]
    command = [*sides, "--results", str(options.results)]
    print(f"\nA is {arms['a']}, B is {arms['b']}; coppice compare {' '.join(command)}")
    parser = argparse.ArgumentParser()
    compare.arguments(parser)
    return compare.main(parser.parse_args([*command, "--fail-on", "never"]))


def _arm(
    text: str, options: argparse.Namespace, rigs: Sequence[RigInfo]
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options and environment of one configuration."""
    own, environment = copy.deepcopy(options), {}
    known = {name for info in rigs for name in (*info.options, *info.flags)}
    for pair in text.split(","):
        name, equals, value = pair.strip().partition("=")
        if not equals:
            raise UsageError(f"{pair!r} in --interleave is not NAME=VALUE")
        if name.startswith("COPPICE_"):
            environment[name] = value
        elif name in LISTS:
            setattr(own, name, [int(value) if name == "concurrency" else value])
        elif name in known:
            setattr(own, name.replace("-", "_"), value)
        else:
            raise UsageError(
                f"nothing is called {name!r} in --interleave",
                hint=f"names are {', '.join((*LISTS, *sorted(known)))} and COPPICE_ variables",
            )
    return own, environment


def _refuse_unwritable(results: Path) -> None:
    """Refuse, before anything is measured, a directory in which no record could be stored."""
    place = results.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise PathError(
            f"records cannot go to {results}: {place} is no directory", hint="name one: --results"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise PathError(
            f"records cannot go to {results}: {place} cannot be written",
            hint="name another directory: --results",
        )


def _refuse_at_once(name: str, tier: str) -> None:
    """A substrate that was asked for by name and cannot run here ends the command, unmeasured."""
    try:
        needs = load_substrate(name).requirements()
    except CoppiceError:
        raise
    except Exception as error:  # another package may fail in any way
        raise PluginError(f"{name} cannot say what it requires: {error!r}") from error
    for need in needs:
        if not need.satisfied:
            remedy = need.remedy.replace("TIER", tier) if need.remedy else None
            raise Unsupported(f"{name} needs {need.what}; {need.detail}", hint=remedy)


def _refuse_unwanted(rigs: Sequence[RigInfo], named: Sequence[str]) -> None:
    """Refuse substrates that none of the chosen rigs can measure."""
    for name in named:
        choosing = [info for info in rigs if info.wants is not None]
        if choosing and not any(substrates_of(info, [name]) for info in choosing):
            suitable = sorted({one.name for info in choosing for one in substrates_of(info)})
            raise UsageError(
                f"{', '.join(info.id for info in choosing)} cannot measure {name}: "
                "it lacks a tier or sharing that the rig needs",
                hint=f"it measures {', '.join(suitable)}",
            )


def _given(options: argparse.Namespace, rigs: Sequence[RigInfo]) -> dict[str, str]:
    """The values of options that rigs declare; UsageError where no chosen rig knows one."""
    given: dict[str, str] = {
        name: value
        for name in _options_of_rigs()
        if (value := getattr(options, name.replace("-", "_"))) is not None
    }
    for name in given:
        if not any(name in (*info.options, *info.flags) for info in rigs):
            raise UsageError(f"{rigs[0].id} has no option --{name}", hint="coppice run --help")
    for info in rigs:
        info.check(given)
    return given


def _pytest(
    files: list[Path],
    options: argparse.Namespace,
    given: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run the rigs in a process of their own, which has imported nothing that they do not need."""
    with tempfile.TemporaryDirectory(prefix="coppice-") as directory:
        benchmarks = Path(directory) / "benchmark.json"
        command = [*ISOLATED, "-m", "pytest", *map(str, files)]
        command += ["-c", str(paths.PYTEST_INI), "--rootdir", str(paths.DATA)]
        command += ["-p", "harness.rig.plugin", "-p", "harness.rig.progress"]
        command += [f"--benchmark-json={benchmarks}", "--benchmark-quiet"]
        command += [f"--coppice-profile={options.profile}"]
        command += [f"--coppice-results={options.results.absolute()}"]
        # Otherwise pytest-benchmark makes a directory where the user is.
        command += [f"--benchmark-storage=file://{directory}"]
        for name in LISTS:
            command += [f"--coppice-{name}={value}" for value in getattr(options, name)]
        command += [f"--coppice-set={name}={value}" for name, value in given.items()]
        try:
            code = _patiently(command, environment or {})
        finally:  # of an interrupted run, too: it may have stored records before
            if benchmarks.exists() and benchmarks.stat().st_size:
                _keep(benchmarks, options.results)
    return 0 if code == 5 else code


class _Ending:
    """Ends a process once when this one is told to end, and kills it when told again.

    The signals are noted, and raise nothing: an exception that came while the process was being
    started would leave it behind.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in ENDING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # by nohup, or a shell that runs us in the background
                self._before[number] = before
                signal.signal(number, self._told)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """The process that is to be ended; it may have been asked for already."""
        self._process = process
        if self.signal:
            process.send_signal(signal.SIGINT)

    def _told(self, number: int, _: object) -> None:
        again, self.signal = self.signal is not None, self.signal or number
        if not self._process:
            return
        if again:
            self.killed = True
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGINT)


def _patiently(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command. SIGINT, SIGTERM and SIGHUP interrupt it, once, and what it has to take down is
    waited for; then Interrupted is raised.

    The command has a session of its own, so that the terminal does not interrupt it a second time.
    A second signal is for a user who does not want to wait for a guest that does not answer: it
    kills everything.
    """
    whole = {**os.environ, **environment}
    with (
        _Ending() as ending,
        subprocess.Popen(command, start_new_session=True, env=whole) as process,
    ):
        ending.watch(process)
        code = process.wait()
    if ending.killed:
        reclaim(runtime_directory())
    if ending.signal:
        raise Interrupted(ending.signal)
    return code


def _keep(benchmarks: Path, results: Path) -> None:
    """Store what pytest-benchmark wrote beside the records, under its own digest."""
    import json

    data = json.loads(benchmarks.read_bytes())
    run_ids = {one["extra_info"].get("run_id") for one in data["benchmarks"]}
    directories = {path.parent for path in find(results) if path.name[:25] in run_ids}
    for directory in directories:
        name = f"{digest(benchmarks)}.pytest-benchmark.json"
        if not (directory / name).exists():
            write_atomically(directory / name, benchmarks.read_bytes())
