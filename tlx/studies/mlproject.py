"""Generator of MLproject: one entry point a study, with the defaults of its command.

python -m tlx.studies.mlproject > MLproject
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from ..spec import Spec, preset_names
from . import STUDIES
from .activations_spec import Extraction, ExtractionOutput

HEAD = """\
name: tlx

# Written by `python -m tlx.studies.mlproject`; a test compares.
#
# Runs in the environment that `mlflow` itself runs in: with this key, and none of python_env,
# conda_env and docker_env, mlflow builds no second environment. Should a later mlflow change that:
# mlflow run . --env-manager local …
databricks_spark_job: {}

# Parameters are the command's options, with its defaults; any other option of the command may be
# given too: -P freeze=2. An empty value leaves the option out.
entry_points:
"""
WIDTH = 100
EXTRACTION = (
    *("trained_on", "dataset", "architecture", "model", "layers", "part", "samples", "reduce"),
    *("use_crops", "export"),
)


def render() -> str:
    """Return the text of MLproject."""
    entries = [_entry(name, study.specs, study.shown) for name, study in STUDIES.items()]
    entries.append(_entry("extract", (Extraction, ExtractionOutput), EXTRACTION))
    return HEAD + "".join(entries)


def _entry(name: str, specs: Sequence[type[Spec]], shown: Sequence[str]) -> str:
    parameters = "".join(f"      {field}: {_parameter(specs, field)}\n" for field in shown)
    words = [f"--{field.replace('_', '-')}={{{field}}}" for field in shown]
    command = textwrap.fill(
        " ".join(["tlx", name, *words]),
        WIDTH,
        initial_indent="      ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    entry = name.replace("-", "_")
    return f"  {entry}:\n    parameters:\n{parameters}    command: >-\n{command}\n"


def _parameter(specs: Sequence[type[Spec]], field: str) -> str:
    owner = next(spec for spec in specs if field in spec.settings() and spec.settings()[field].cli)
    hint, default = owner.hints()[field], owner.defaults()[field]
    if field in preset_names(specs):
        return '{type: string, default: ""}'  # a default that is passed on would hide the preset's
    kind = {int: "int", float: "float"}.get(hint, "string")
    return f"{{type: {kind}, default: {_default(default)}}}"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return f'"{str(value).lower()}"'
    if value is None or value in ("", ()):
        return '""'
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
