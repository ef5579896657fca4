"""Results of cells: a value's forms by MIME type, as E2B's code interpreter names them."""

import base64
import json
import math
import sys

from cell_output import send, settle
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import BaseFormatter, JSONFormatter
from traitlets import ObjectName, Unicode

_FORMS = {
    "text/plain": "text", "text/html": "html", "text/markdown": "markdown",
    "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpeg",
    "application/pdf": "pdf", "text/latex": "latex", "application/json": "json",
    "application/javascript": "javascript", "e2b/data": "data", "e2b/chart": "chart",
}  # fmt: skip

_ONLY_TEXT = (bool, int, float, str)


def send_result(data_by_type, main):
    forms, extra = {}, {}
    for kind, data in data_by_type.items():
        if isinstance(data, (bytes, bytearray)):
            data = base64.b64encode(data).decode()
        target, name = (forms, _FORMS[kind]) if kind in _FORMS else (extra, kind)
        target[name] = data if isinstance(data, str) else _plain(data)
    text = forms.get("text")
    # As E2B's server does: a string is shown without the quotes of its repr.
    if text and text[0] == text[-1] and text[0] in "'\"":
        forms["text"] = text[1:-1]
    if extra:
        forms["extra"] = extra
    settle()
    send("result", **forms, is_main_result=main)


def _plain(value):
    """A value that strict JSON can express: NaN and infinities are null, keys are strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


class Publisher(DisplayPublisher):
    """Sends what a cell displays."""

    def publish(self, data, metadata=None, source=None, *, update=False, **more):
        if not update:  # E2B has no form for a changed display
            send_result(data, False)

    def clear_output(self, wait=False):
        """A stream of output cannot be taken back."""


class ResultHook(DisplayHook):
    """Sends the value of a cell's last expression."""

    def compute_format_data(self, result):
        """Numbers and strings have the form of text only, unless a formatter was told of a type:
        to ask all formatters is half of the time of a short cell."""
        if type(result) in _ONLY_TEXT:
            formatters = dict(self.shell.display_formatter.formatters)
            text = formatters.pop("text/plain")
            if not any(
                each.type_printers or each.deferred_printers for each in formatters.values()
            ):
                return {"text/plain": text(result)}, {}
        return super().compute_format_data(result)

    def write_output_prompt(self):
        """No prompt: the result is an object of its own."""

    def write_format_data(self, format_dict, md_dict=None):
        send_result(format_dict, True)

    def finish_displayhook(self):
        """Nothing is left to write."""


class _JsonOfContainers(JSONFormatter):
    """Lists and dictionaries that are JSON already have it as a form too."""

    def __call__(self, obj):
        if isinstance(obj, (list, dict)):
            try:
                return json.loads(json.dumps(obj))
            except (TypeError, ValueError, RecursionError):
                pass
        return super().__call__(obj)


class _DataOfFrames(BaseFormatter):
    """The columns of a pandas.DataFrame, which only exists where pandas was imported."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)

    def __call__(self, obj):
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(obj, getattr(pandas, "DataFrame", ())):
            return super().__call__(obj)
        return {
            name: [
                cell.isoformat() if isinstance(cell, pandas.Timestamp) else cell for cell in cells
            ]
            for name, cells in obj.to_dict(orient="list").items()
        }


class _Chart(BaseFormatter):
    """Of an object that describes itself as a chart."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)


def add_formatters(display_formatter):
    for kind in (_JsonOfContainers, _DataOfFrames, _Chart):
        formatter = kind(parent=display_formatter)
        display_formatter.formatters[formatter.format_type] = formatter
