"""Helm's own lint and rendering: `helm-python tests/tools/helm.py CHART VALUES`, a Python that has helm-python-sdk.

VALUES are JSON. Prints JSON: `problems`, and `rendered`, what each template made.
"""

from __future__ import annotations

import json
import sys

from helm_python import Chart, lint

NAME, NAMESPACE = "blue", "training"


def main(chart: str, values: str) -> None:
    """Print what Helm says of the chart with these values."""
    given = json.loads(values)
    report = lint(chart, given, strict=True, namespace=NAMESPACE)
    problems = [message["error"] for message in report["messages"] if message["severity"] > 1]
    problems += report["errors"]
    rendered = {} if problems else Chart.load(chart).render(given, name=NAME, namespace=NAMESPACE)
    sys.stdout.write(json.dumps({"problems": problems, "rendered": rendered}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
