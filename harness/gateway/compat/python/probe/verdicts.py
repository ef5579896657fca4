"""What the failure of a call means: the service differs from E2B, refuses, or lacks the method.

The SDK's message is not enough, since it turns a 404 into "not found" or False. httpx logs each
exchange, which the SDK does not change; what goes another way (envd's services) is in the message.
"""

from __future__ import annotations

import logging
import re
import traceback

DIFFERS, REFUSED, MISSING, NOT_OFFERED = "differs", "refused", "missing", "not-offered"
BY_NAME = re.compile(
    r"not (?:yet |currently )?(?:supported|offered|implemented|available)|unsupported|"
    r"(?:does|do) ?(?:n.t| not) (?:yet )?support|no support",
    re.IGNORECASE,
)
"""How services say that they know a request and do not offer it."""
NO_ROUTE = re.compile(
    r"method not allowed|unimplemented|no operation at|page not found|"
    r"no such (?:call|method|operation|route)",
    re.IGNORECASE,
)
BY_PLAN = re.compile(r"your (?:plan|team|tier)|not enabled", re.IGNORECASE)
NO_TEMPLATE = re.compile(r"template\b.*\bnot found|no template|unknown template", re.I | re.S)
_LINE = re.compile(r'HTTP Request: (\S+) \S+?//[^/\s]+(\S*) "HTTP/\S+ (\d{3})')
_STATUS = re.compile(r"\b(?:Error |error |: |^)?([45]\d\d)\b:")


class Exchanges(logging.Handler):
    """The exchanges that httpx logs: (method, path, status)."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.seen = []
        logger = logging.getLogger("httpx")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def emit(self, record):
        if match := _LINE.match(record.getMessage()):
            self.seen.append((match[1], match[2].partition("?")[0], int(match[3])))

    def taken(self):
        """Those since the last call."""
        taken, self.seen = self.seen, []
        return taken


def judged(error, seen, alive):
    """The kind of a failure, and what was answered in the exchanges `seen`. `alive`: the sandbox
    that was asked exists, so that a 404 is not about it."""
    if getattr(error, "exit_code", None) == 127:
        return NOT_OFFERED, f"the template lacks the program: {error.stderr.strip()}"
    text = str(error) or traceback.format_exc().strip().splitlines()[-2].strip()
    if not isinstance(error, AssertionError):
        text = f"{type(error).__name__}: {text}"
    last = seen[-1] if seen else None
    answered = f"; {last[0]} {last[1]} answered {last[2]}" if last and last[2] >= 400 else ""
    return _kind(text, last[2] if last else 0, alive), f"{text[:500]}{answered}"


def _kind(text, status, alive):
    if match := _STATUS.search(text):
        status = int(match[1])
    if NO_TEMPLATE.search(text):
        return NOT_OFFERED
    if status == 405 or NO_ROUTE.search(text):
        return MISSING
    if BY_NAME.search(text):
        return REFUSED
    if status == 501:
        return MISSING
    if status in (402, 403) or BY_PLAN.search(text):
        return NOT_OFFERED
    if status == 404 and alive:
        return MISSING
    return DIFFERS
