"""A launcher of sandboxes of one substrate in one tier, with a pool where the tier has one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack

from harness.host.identity import allocate
from harness.host.run import Run
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sandbox, Sharing, Substrate, Template, Tier


class Launcher:
    """All tiers but FULL have a pool of `size` sandboxes. Only `ready` fills it, so that no launch
    takes CPU time from a measurement.

    `pooled=False` launches on request in every tier; `forked` forks each sandbox from a zygote.
    `stack` destroys everything.
    """

    def __init__(
        self,
        run: Run,
        substrate: Substrate[Template],
        template: Template,
        tier: Tier,
        stack: ExitStack,
        size: int,
        *,
        pooled: bool = True,
        forked: bool = False,
    ) -> None:
        if forked:
            template = stack.enter_context(substrate.zygote(run, template))
            # A fork is stopped in memory in any tier; a pooled tier would rehearse it again.
            make = functools.partial(
                substrate.launch, run, template, Tier.DURABLE_POOL, sharing=Sharing.FORKED
            )
        else:
            make = functools.partial(substrate.launch, run, template, tier)
        self.launch: Callable[[], Sandbox] = lambda: make(allocate(run.leases, run.id))
        self._unpooled = stack
        self._pool = None
        if pooled and not forked and tier is not Tier.FULL:
            each = substrate.memory_per_sandbox(tier)
            self._pool = stack.enter_context(
                Pool(self.launch, size, memory_each=each, refill=False)
            )

    def ready(self, count: int) -> None:
        """Fill the pool, if there is one, with `count` sandboxes. Raises CoppiceError."""
        if self._pool:
            self._pool.fill(count)

    def acquire(self) -> Sandbox:
        """A sandbox from the pool, or a new one."""
        if self._pool:
            return self._pool.check_out()
        sandbox = self.launch()
        self._unpooled.callback(sandbox.destroy)  # also after an interrupt
        return sandbox

    def release(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox that was acquired."""
        if self._pool:
            self._pool.give_back(sandbox)
        else:
            sandbox.destroy()
