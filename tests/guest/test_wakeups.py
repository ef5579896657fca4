"""Counting wake-ups in a trace of the guest's kernel."""

from __future__ import annotations

from harness.guest.wakeups import count

TRACE = """\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
              sh-85      [000] d..2.    22.100000: timer_expire_entry: timer=0b function=early now=1
          <idle>-0       [000] d.h1.    23.200000: hrtimer_expire_entry: hrtimer=0a function=tick now=2
     kworker/0:2-39      [000] .....    23.300000: workqueue_execute_start: work struct 0c: function shepherd
          <idle>-0       [000] d.h1.    24.200000: hrtimer_expire_entry: hrtimer=0a function=tick now=3
          <idle>-0       [000] d.h1.    99.000000: hrtimer_expire_entry: hrtimer=0a function=late now=4
"""  # noqa: E501


def test_calls_per_second_without_the_start_and_after_the_end_of_a_trace() -> None:
    assert count(TRACE, 2.0) == {"tick": 1.0, "shepherd": 0.5}


def test_an_empty_trace() -> None:
    assert count("# tracer: nop\n", 2.0) == {}
