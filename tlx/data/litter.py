"""Files and folders left by operating systems and tools, not by the user."""

from __future__ import annotations

LITTER = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
    "icon\r",
}


def is_litter(name: str) -> bool:
    """Return whether an entry is hidden or left behind by a system or tool.

    Names are compared in lower case.
    """
    return name.startswith(".") or name.lower() in LITTER
