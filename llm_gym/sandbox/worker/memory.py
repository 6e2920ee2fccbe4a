"""Arranges a server's memory so that its forks copy few pages, which is most of what a fork costs."""

from __future__ import annotations

import ctypes

# CPython's obmalloc, since 3.10: objects of up to 512 bytes lie in pools, each of one size and behind a header.
_LARGEST, _STEP, _POOL, _HEADER = 512, 16, 16 << 10, 48
_TRIES = 4096


def leave_no_gaps() -> None:
    """Take the gaps between the objects that are here to stay, for good.

    A program's first objects would go there, each to another page that has to be copied. Now they go side by side.
    """
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        _leave_no_gaps_in_heap()
    allocate, free = ctypes.pythonapi.PyObject_Malloc, ctypes.pythonapi.PyObject_Free
    allocate.restype, allocate.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.restype, free.argtypes = None, (ctypes.c_void_p,)
    for size in range(_STEP, _LARGEST + 1, _STEP):
        for _ in range(_TRIES):
            block = allocate(size)
            if block % _POOL == _HEADER:
                # The first of an empty pool.
                free(block)
                break


def _leave_no_gaps_in_heap() -> None:
    """The same for glibc's heap, where larger objects lie: whatever is given out from below its end now is a gap."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, (ctypes.c_ssize_t,)
    libc.malloc_trim(ctypes.c_size_t(0))
    end = libc.sbrk(0)
    for size in (*(1 << bits for bits in range(16, 10, -1)), *range(1024, 0, -16)):
        while (libc.malloc(size) or end) < end:
            pass
