"""The guest kernel's command line: each argument with its reason.

Emulation and hardware have lists of their own. Under emulation what the kernel does for real
processors costs time and protects nothing. Under hardware the kernel's own defaults decide what
running work costs, mitigations and huge pages among them: a figure is then that of a real host.
`EXTRA` is an environment variable whose words come last, so that they override.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from harness.errors import UsageError

EXTRA = "COPPICE_KERNEL_ARGUMENTS"
MOST = 2047
"""Characters that Linux reads on x86; it drops the rest without an error."""
RESERVED = ("rdinit", "coppice.line", "initrd", "noinitrd", "--")
"""What the user's words may not begin with, before a `=`."""

_UNUSED = (
    "init_kprobe_trace,load_system_certificate_list,crypto_kdf108_init,snapshot_device_init,"
    "slab_sysfs_init,init_trace_printk_function_export,init_ima,init_blk_tracer,"
    "init_graph_tracefs,dquot_init,trace_eval_init,trace_events_synth_init,cmos_init,"
    "nvme_core_init,blake2s_mod_init,acpi_thermal_init,init_encrypted"
)

ALWAYS: Mapping[str, str] = {
    # What the agent needs.
    "rdinit=/init": "the agent is PID 1",
    "panic=-1": "a guest that panics ends at once, which its VMM reports",
    "reboot=t": "by a triple fault: microvm has no other means that a kernel tries first",
    "iomem=relaxed": "/dev/mem may map the local APIC, by which the agent masks interrupts",
    "nox2apic": "the local APIC stays at its address; as x2APIC it has none to map",
    "console=tty0": "a kernel without virtual terminals then has no console: it would choose the "
    "UART, which is the doorbell's",
    "quiet": "fewer messages to format",
    # Hardware that a microVM does not have, and features that no rig needs: a shorter boot.
    "nr_cpus=1": "a guest has one vCPU; the kernel reserves memory for each that might come",
    "8250.nr_uarts=1": "there is one UART",
    "i8042.noaux": "there is no keyboard controller to wait for",
    "i8042.nokbd": "the same",
    "i8042.nopnp": "the same",
    f"initcall_blacklist={_UNUSED}": "not initialised: tracing, quotas, certificates, hibernation, "
    "the RTC, disks, encrypted keys",
    # An idle guest is not woken.
    "tsc=nowatchdog": "no timer compares the TSC with another clock twice a second",
    "nowatchdog": "no detector of lock-ups",
    "ipv6.disable_ipv6=1": "no router solicitations; it can be enabled",
}

EMULATED: Mapping[str, str] = {
    "clocksource=tsc": "the emulated TSC, which stands still while a guest is stopped",
    "mitigations=off": "an emulated processor does not speculate: they protect nothing",
    "nokaslr": "nothing to relocate at boot",
    "cryptomgr.notests": "no self tests at boot",
    "init_on_alloc=0": "pages are not cleared twice",
    "norandmaps": "moving a new program's stack would flush the TLB",
    "noreplace-smp": "patching lock prefixes away would discard translated code",
    "transparent_hugepage=never": "no memory compaction; a page of 2 MiB is cleared at a touch",
    "lsm=": "no security modules",
    "psi=0": "no pressure accounting",
    "cgroup_disable=memory": "no accounting of memory",
}

HARDWARE: Mapping[str, str] = {
    "random.trust_cpu=on": "RDRAND seeds the generator: an idle microVM gathers entropy slowly",
}

KVM: Mapping[str, str] = {
    **HARDWARE,
    "clocksource=kvm-clock": "stands still while a guest is stopped, as under emulation; the TSC "
    "would go on, and every timer be overdue at a wake-up",
}


def line(accelerator: str, *, tsc_khz: int = 0, serial: bool = False) -> str:
    """The command line of a QEMU guest under this accelerator.

    `tsc_khz` is the rate of the TSC that an emulated guest sees (0: it measures that), `serial`
    makes the UART the agent's channel. Raises UsageError when it is too long.
    """
    words = [*ALWAYS, *(EMULATED if accelerator == "tcg" else KVM)]
    if accelerator == "tcg" and tsc_khz:
        # Saves its calibration; the delay loop's follows from it.
        words.append(f"tsc_early_khz={tsc_khz}")
    return _joined(words, serial)


def line_of_bhyve() -> str:
    """The command line of a Linux guest under bhyve, whose UART is the agent's channel."""
    return _joined([*ALWAYS, *HARDWARE], serial=True)


def extra(environment: Mapping[str, str]) -> list[str]:
    """The user's words. Raises UsageError for what no kernel reads as it is meant, and for words
    that would take away what starts and reaches the agent."""
    text = environment.get(EXTRA, "")
    if not text.isascii() or any(ord(one) < 32 and not one.isspace() for one in text):
        raise UsageError(f"{EXTRA} has characters that are not printable ASCII: {text!r}")
    if text.count('"') % 2:
        raise UsageError(f"{EXTRA} has a quote that is never closed: {text}")
    words = text.split()
    for word in words:
        if word.partition("=")[0] in RESERVED:
            raise UsageError(
                f"{EXTRA} has {word}: without what it replaces no agent answers in the guest",
                hint=f"leave out {', '.join(RESERVED)}",
            )
    return words


def check(environment: Mapping[str, str]) -> None:
    """Raise UsageError for words of an environment that no guest can start with."""
    _joined([*ALWAYS, *EMULATED], serial=True, environment=environment)


def _joined(words: list[str], serial: bool, environment: Mapping[str, str] = os.environ) -> str:
    if serial:
        words.append("coppice.line=ttyS0")
    whole = " ".join([*words, *extra(environment)])
    if len(whole) > MOST:
        raise UsageError(
            f"the guest kernel's command line has {len(whole)} characters; it reads {MOST}",
            hint=f"shorten {EXTRA}",
        )
    return whole
