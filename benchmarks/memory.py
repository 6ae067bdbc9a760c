"""The most memory that a process has taken: on a CPU all of it, on a GPU what tensors take."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def forget_peak(device: str) -> None:
    """Free what is left of things past, and begin to measure anew."""
    give_back()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Bytes, at most, since `forget_peak`; of the process on a CPU, of the allocator on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def give_back() -> None:
    """Let other processes have what this one has freed."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
