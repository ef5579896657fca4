"""Run rigs, store their records, and print a table of the results.

Exit codes: 0 every rig that can run here did; 1 a rig failed; 69 no requested rig can run here.
SIGINT, SIGTERM and SIGHUP end it after clean-up with 130, 143, 129; a second signal does not wait.
"""

from __future__ import annotations

import argparse
import copy
import os
import secrets
import signal
import subprocess
import sys
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
from harness.host.session import open_run
from harness.measure.record import digest, find, write_atomically
from harness.measure.selection import INTERLEAVE
from harness.paths import runtime_directory
from harness.rig import summary
from harness.rig.discovery import Rig, discover, substrates_of
from harness.rig.info import RigInfo
from harness.rig.orphan import interrupted_with_parent
from harness.sandbox.protocol import Tier, refused
from harness.sandbox.protocol import load as load_substrate

HELP = "run rigs and store their records"
TERMINATION = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ISOLATED = (sys.executable, "-P")
"""Python that does not import from the current directory."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rig", nargs="?", help="a rig's id, such as cold-start")
    parser.add_argument(
        "--all", action="store_true", help="run every rig that can run here, except long ones"
    )
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
        help="where records are stored (default: ./results)",
    )
    parser.add_argument(
        "--interleave",
        nargs=2,
        metavar=("A", "B"),
        help="run two configurations in alternation (A B B A …) and compare them; each consists of "
        "NAME=VALUE pairs joined by commas: tier=full, an option of the rig, a COPPICE_ variable",
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds of --interleave (default: 10)"
    )
    for name, (info, rigs) in sorted(_options_of_rigs().items()):
        # So that it does not look like an option of every rig.
        declared_by = f"({', '.join(rigs)})"
        if name in info.flags:
            parser.add_argument(
                f"--{name}",
                action="store_const",
                const="yes",
                help=f"{info.flags[name]} {declared_by}",
            )
        else:
            parser.add_argument(
                f"--{name}", metavar="VALUE", help=f"{info.options[name]} {declared_by}"
            )


def _options_of_rigs() -> dict[str, tuple[RigInfo, list[str]]]:
    """The options and flags of rigs: name -> a rig with its help, and all that declare it."""
    found: dict[str, tuple[RigInfo, list[str]]] = {}
    for id, rig in discover().found.items():
        for name in (*rig.info.options, *rig.info.flags):
            found.setdefault(name, (rig.info, []))[1].append(id)
    return found


def main(options: argparse.Namespace) -> int:
    discovered = discover()
    rigs = discovered.found
    for where, why in {**refused(), **discovered.broken}.items():
        print(f"coppice: skipped {where}: {why}", file=sys.stderr)
    if options.rig is not None and options.rig not in rigs:
        raise UsageError(
            f"no rig is called {options.rig!r}", hint=f"rigs: {', '.join(sorted(rigs))}"
        )
    if options.rig is None and not options.all:
        raise UsageError("name a rig, or use --all", hint=f"rigs: {', '.join(sorted(rigs))}")
    for tier in options.tier:
        if tier not in tuple(Tier):
            raise UsageError(f"no tier is called {tier!r}", hint=f"tiers: {', '.join(Tier)}")
    for name in options.substrate:
        _require_runnable(name, (options.tier or ["full"])[0])
    _require_writable(options.results)
    chosen = selected(rigs, options.rig)
    infos = [rig.info for rig in chosen]
    _require_measurable(infos, options.substrate, options.tier)
    given = _given(options, infos)
    files = [rig.path for rig in chosen]
    before = set(find(options.results))
    if options.interleave:
        return _interleave(files, options, infos)
    code = _pytest(files, options, given)
    made = [path for path in find(options.results) if path not in before]
    for line in summary.lines(made) if options.rig else ():
        print(line)
    if made:
        print(f"\nrecords: {made[0].parent}")
    if options.site and made:
        code = _build_site(options.results) or code
    if not made and code == 0:
        raise Unsupported("nothing that was requested can run here", hint="coppice doctor")
    return code


def selected(rigs: Mapping[str, Rig], id: str | None) -> list[Rig]:
    """The rig of this id, or without an id every rig whose quick run does not take long."""
    return [rigs[id]] if id else [rig for rig in rigs.values() if not rig.info.long]


def main_remote(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run rigs on the host that COPPICE_HOST names, and fetch their records."""
    from harness.remote import remote_run

    _require_writable(options.results)
    before = set(find(options.results))
    code = remote_run.run_remotely(
        remote_run.address(),
        remote_run.drop_options(argv, "--results", flags=["--site"]),
        options.results,
    )
    made = [path for path in find(options.results) if path not in before]
    if made:
        print(f"records fetched to {made[0].parent}")
    if code:
        print(f"directories named as kept are on {os.environ['COPPICE_HOST']}", file=sys.stderr)
    if options.site and made:
        code = _build_site(options.results) or code
    return code


def _build_site(results: Path) -> int:
    # In a separate process: a process that measures never loads the renderer.
    site = [*ISOLATED, "-m", "harness.cli", "site", "--results", str(results)]
    return subprocess.call(site)


LISTS = ("substrate", "tier", "concurrency")
"""Options that select a rig's cases, and may be repeated."""


def _interleave(files: list[Path], options: argparse.Namespace, rigs: Sequence[RigInfo]) -> int:
    """Run two configurations in alternation and compare them round by round.

    Every record names its session and round, so that `coppice compare` can repeat the comparison.
    """
    from harness.commands import compare

    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}: must be at least 1")
    before = set(find(options.results))
    session = secrets.token_hex(4)
    arms = {"a": options.interleave[0], "b": options.interleave[1]}
    settings = {arm: _arm(text, options, rigs) for arm, text in arms.items()}
    for number in range(options.rounds):
        # A B, then B A: steady drift affects both alike.
        for arm in ("ab", "ba")[number % 2]:
            own, environment = settings[arm]
            turn = {**environment, INTERLEAVE: f"{session}/{arm}/{number}"}
            code = _pytest(files, own, _given(own, rigs), turn)
            if code:
                return code
    if not set(find(options.results)) - before:
        raise Unsupported("nothing that was requested can run here", hint="coppice doctor")
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
                f"--interleave does not know {name!r}",
                hint=f"names: {', '.join((*LISTS, *sorted(known)))} and COPPICE_ variables",
            )
    return own, environment


def _require_writable(results: Path) -> None:
    """Raise PathError, before anything is measured, where no record could be stored."""
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


def _require_runnable(name: str, tier: str) -> None:
    """Raise Unsupported for a substrate that the user named and that cannot run here."""
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


def _require_measurable(
    rigs: Sequence[RigInfo], named: Sequence[str], tiers: Sequence[str]
) -> None:
    """Raise UsageError for substrates that none of the chosen rigs can measure in these tiers."""
    for name in named:
        own = load_substrate(name).tiers
        if tiers and not set(tiers) & set(own):
            raise UsageError(
                f"{name} has no tier {' or '.join(tiers)}", hint=f"its tiers: {', '.join(own)}"
            )
        choosing = [info for info in rigs if info.wants is not None]
        if choosing and not any(substrates_of(info, [name]) for info in choosing):
            suitable = sorted(
                {substrate.name for info in choosing for substrate in substrates_of(info)}
            )
            raise UsageError(
                f"{', '.join(info.id for info in choosing)} cannot measure {name}: "
                "it lacks a tier or sharing that the rig needs",
                hint=f"substrates: {', '.join(suitable)}",
            )


def _given(options: argparse.Namespace, rigs: Sequence[RigInfo]) -> dict[str, str]:
    """The values given for options of rigs. Raises UsageError if no chosen rig has an option."""
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
    """Run the rigs in a separate process, which imports nothing that they do not need."""
    # In a run's directory: `coppice clean` removes it after this process was killed.
    with open_run() as owner:
        benchmarks = owner.directory / "benchmark.json"
        command = [*ISOLATED, "-m", "pytest", *map(str, files)]
        command += ["-c", str(paths.PYTEST_INI), "--rootdir", str(paths.DATA)]
        command += ["-p", "harness.rig.progress"]
        command += [f"--benchmark-json={benchmarks}", "--benchmark-quiet"]
        command += [f"--coppice-profile={options.profile}"]
        command += [f"--coppice-results={options.results.absolute()}"]
        # Otherwise pytest-benchmark makes a directory where the user is.
        command += [f"--benchmark-storage=file://{owner.directory}"]
        for name in LISTS:
            command += [f"--coppice-{name}={value}" for value in getattr(options, name)]
        command += [f"--coppice-set={name}={value}" for name, value in given.items()]
        try:
            code = _run_interruptibly(command, environment or {})
        finally:  # an interrupted run may have stored records, too
            if benchmarks.exists() and benchmarks.stat().st_size:
                _keep(benchmarks, options.results)
    return 0 if code == 5 else code


class _Termination:
    """Forwards the first termination signal to a process as SIGINT, and kills it on the second.

    The handlers raise nothing: an exception while the process is being started would orphan it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in TERMINATION:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # ignored by nohup, or in the background
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Forward signals to this process, including one that has come already."""
        self._process = process
        if self.signal:
            process.send_signal(signal.SIGINT)

    def _handle(self, number: int, _: object) -> None:
        again, self.signal = self.signal is not None, self.signal or number
        if not self._process:
            return
        if again:
            self.killed = True
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGINT)


def _run_interruptibly(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command. The first SIGINT, SIGTERM or SIGHUP interrupts it; Interrupted is raised after
    it has cleaned up.

    The command has its own session, so that the terminal does not interrupt it a second time. A
    second signal kills everything, for users who do not want to wait for an unresponsive guest.
    """
    whole = {**os.environ, **environment}
    with (
        _Termination() as termination,
        subprocess.Popen(
            command, start_new_session=True, env=whole, preexec_fn=interrupted_with_parent()
        ) as process,
    ):
        termination.watch(process)
        code = process.wait()
    if termination.killed:
        reclaim(runtime_directory())
    if termination.signal:
        raise Interrupted(termination.signal)
    return code


def _keep(benchmarks: Path, results: Path) -> None:
    """Store pytest-benchmark's file beside the records, named by its digest."""
    import json

    data = json.loads(benchmarks.read_bytes())
    run_ids = {benchmark["extra_info"].get("run_id") for benchmark in data["benchmarks"]}
    directories = {path.parent for path in find(results) if path.name[:25] in run_ids}
    for directory in directories:
        name = f"{digest(benchmarks)}.pytest-benchmark.json"
        if not (directory / name).exists():
            write_atomically(directory / name, benchmarks.read_bytes())
