# SPDX-License-Identifier: Apache-2.0
"""Memory, mappings and files of a process."""

from __future__ import annotations

import os
from pathlib import Path


def held(process: int | str = "self") -> dict[str, int]:
    """What a process holds."""
    proc = Path("/proc", str(process))
    status = (proc / "status").read_text()
    memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    maps = len((proc / "maps").read_text().splitlines())
    return {"kB": int(memory), "mappings": maps, "files": len(os.listdir(proc / "fd"))}
