"""A schema.org Dataset in a page, for search engines: data in a script element.

<, > and & are written as JSON escapes, so that no content can end the element or start a comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from harness import strict_json
from harness.measure.record import RunRecord
from harness.site.data import machines
from harness.site.data.addresses import relative

LICENCE = "https://spdx.org/licenses/BSD-2-Clause"
_ESCAPES = str.maketrans({one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"})


def within(data: Mapping[str, Any]) -> Markup:
    """JSON that is safe inside a script element."""
    text = strict_json.dumps(data, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def _where(record: RunRecord) -> str:
    machine = machines.title(record.machine)
    if record.endpoint:
        return f"of the service {record.endpoint.name}, from {machine}"
    return f"on {machine}"


def of_run(record: RunRecord, title: str, page: str, files: Mapping[str, str]) -> Markup:
    """One run as a Dataset. `files` maps its paths below the site's root to media types."""
    metrics = {one.metric: one for one in record.series}
    return within(
        {
            "@context": "https://schema.org/",
            "@type": "Dataset",
            "name": f"{title}: run {record.run_id}",
            "description": f"Every sample of one run of the rig {record.rig.id}, in measurement "
            f"order, {_where(record)}.",
            "identifier": record.run_id,
            "license": LICENCE,
            "isAccessibleForFree": True,
            "temporalCoverage": f"{record.started}/{record.finished}",
            "isPartOf": {"@type": "Dataset", "@id": relative(page, "dataset.jsonld")},
            "measurementTechnique": f"{record.clock.id}: from {record.clock.start}, by "
            f"{record.clock.source}",
            "variableMeasured": [
                {
                    "@type": "PropertyValue",
                    "name": name,
                    "unitText": one.unit,
                    "description": record.clock.stop.get(name, "not stated"),
                }
                for name, one in metrics.items()
            ],
            "distribution": [
                {
                    "@type": "DataDownload",
                    "encodingFormat": kind,
                    "contentUrl": relative(page, path),
                }
                for path, kind in files.items()
            ],
        }
    )
