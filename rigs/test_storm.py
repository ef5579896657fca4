"""Storms on substrates: sandboxes arrive at a rate, whether or not those before are ready.

Every latency counts from the moment at which the request was due. `--hold N` holds N sandboxes
alive, asks each a second time, and then ends all. `--sweep` offers one rate after the other and
finds the capacity. Afterwards what is left on the host is counted. The case `noop-reach` measures
the generator: the highest rate that it keeps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import UsageError
from harness.host.run import Run
from harness.load import arrivals, generator
from harness.load.arrivals import Lifetime, Schedule
from harness.load.capacity import Sweep, judged, sweep
from harness.load.generator import LIMIT, USABLE, Outcome
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import LADDER, calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Image, Scalar
from harness.paths import cache_directory
from harness.procedures import storm_series
from harness.procedures.run_objects import objects
from harness.procedures.storm import AtOnce, Lives, Source, kind_of, threads
from harness.procedures.storm_options import OPTIONS, StormOptions
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.rig.stages import ANSWERED
from harness.sandbox.protocol import Sharing, Substrate, Template, Tier, load
