"""Messages between pool and server: fixed-size records beside descriptors, so neither parses the other's text."""

from __future__ import annotations

import signal
import struct

# wall_s, cpu_s (0: none), mode, bytes of the program, then memory, output, processes, threads as in `Limits`
REQUEST = struct.Struct("<ddBqqqqq")
# started, wait status, cut, wall_s, cpu_s, peak bytes
REPLY = struct.Struct("<BiBddq")

RUN, TESTS = 0, 1
# A program's text for TESTS begins with the sizes of what follows: imports, solution, setup, operands.
JOB = struct.Struct("<qqqq")
FINISHED, CUT_BY_WALL, CUT_BY_CPU = 0, 1, 2

# Descriptors of one program, in the order they are sent: program, stdin, stdout, stderr, and for TESTS the answers.
MAX_FDS = 5

# How a program's process says "a MemoryError ended me": a signal nobody raises by accident, which needs no open
# descriptor.
MEMORY_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 4) - 4
# Exit status of a process whose program the compiler refused; it counts only while `started` is 0.
REFUSED_BY_COMPILER = 3
# Exit status of a process that failed before it came to the program; likewise.
NOT_EVEN_TRIED = 4
