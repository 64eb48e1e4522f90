"""What the processor's 8-bit dot products can do, as far as it decides which graph is right."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

__all__ = ["multiplies_signed_exactly", "processor_features"]

_CPUINFO = Path("/proc/cpuinfo")
# Instructions that add products of unsigned and signed bytes in 32 bits. Older ones add pairs of
# them in 16 bits first, which saturates: with those, signed weights would change answers.
_EXACT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp"})


def processor_features(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The features that the kernel lists for the first processor; empty where it lists none."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})  # every Apple processor of this kind
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            return frozenset(values.split())
    return frozenset()


def multiplies_signed_exactly(features: frozenset[str]) -> bool:
    """Whether products with signed weights are exact, and fast, on such a processor."""
    return not _EXACT.isdisjoint(features)
