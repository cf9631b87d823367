"""Compiled numerical kernels: the files of the top-level folder kernels/.

They are imported as tlx.kernels.x.
"""

from pathlib import Path as _Path

from . import _cache

_source = _Path(__file__).resolve().parents[2] / "kernels"
if (
    _source.is_dir() and (_source.parent / "pyproject.toml").is_file()
):  # a checkout, or an editable install
    __path__.append(str(_source))
_cache.ensure(next(_Path(place) for place in reversed(__path__)))
