"""The attacks that the sandbox is tested with: what each program tries, and what must come of it. `docs/sandbox.md` prints this table."""

# ruff: noqa: E501 - each program on as few lines as it has

from __future__ import annotations

from dataclasses import dataclass, field

from llm_gym.sandbox import Limits

QUICK = Limits(wall_s=0.5, memory_bytes=128 << 20, output_bytes=1 << 16, threads=16)
FORKING = Limits(wall_s=0.5, memory_bytes=64 << 20, output_bytes=1 << 16, processes=8, threads=16)
PATIENT = Limits(wall_s=5.0, memory_bytes=128 << 20, output_bytes=1 << 16, threads=16)

# What most attacks share: `refused(f, ...)` prints whether an attempt failed, and ESCAPED, which may never be seen, where it did not.
TRY = """
import os, sys
def refused(attempt, *arguments, **options):
    try:
        attempt(*arguments, **options)
    except (OSError, ValueError, MemoryError, ImportError) as error:
        print("refused")
    else:
        print("ESCAPED")
"""
# A raw system call that has to fail. The number is x86_64's, aarch64's.
RAW = """
import ctypes, os, platform
def raw(x86_64, aarch64, *arguments):
    number = x86_64 if platform.machine() == "x86_64" else aarch64
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    print("refused" if result < 0 else "ESCAPED")
"""


@dataclass(frozen=True)
class Attack:
    """One program and what must come of it.

    Attributes:
        name: What it tries.
        program: Its source; `@OUTSIDE@` stands for a folder that is everybody's to read and write, `@HOME@` for the home folder.
        status: Every status that counts as held, separated by blanks.
        held: What it meets, for the page.
        prints: All that it prints, where that is certain.
        limits: What it may use.
        exit_code: Its exit status, where that is certain.
        signal: The signal that must end it, if one must.
    """

    name: str
    program: str
    status: str
    held: str
    prints: str | None = None
    limits: Limits = field(default=QUICK)
    exit_code: int | None = None
    signal: str | None = None


ATTACKS = [
    # time
    Attack("endless loop", "while True: pass", "timeout", "wall clock limit"),
    Attack("sleeping for ever", "import time\nwhile True: time.sleep(1000)", "timeout", "wall clock limit"),
    Attack(
        "busy loop with every signal blocked",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
        "timeout",
        "SIGKILL cannot be blocked",
    ),
    Attack(
        "swallowing every exception, for ever",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "timeout",
        "no exception is used to stop it",
    ),
    Attack(
        "stopping itself by SIGSTOP",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "timeout",
        "wall clock limit",
    ),
    Attack(
        "an atexit function that does not return",
        "import atexit\n@atexit.register\ndef spin():\n    while True: pass",
        "timeout",
        "wall clock limit",
    ),
    Attack(
        "a thread that outlives the main one",
        "import threading, time\ndef later():\n    time.sleep(0.1); print('later')\nthreading.Thread(target=later).start()\nprint('main')",
        "ok",
        "waited for, as Python does",
        prints="main\nlater\n",
    ),
    Attack(
        "a daemon thread that never ends",
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()\nprint('main')",
        "ok",
        "ends with the process",
        prints="main\n",
    ),
    Attack(
        "setting the clock",
        TRY + "import time\nrefused(time.clock_settime, time.CLOCK_REALTIME, 0)",
        "ok",
        "seccomp, no capability",
        "refused\n",
    ),
    # memory
    Attack("10 GB at once", "x = bytearray(10 * 2**30)", "memory", "address space limit"),
    Attack(
        "memory little by little",
        "x = []\nwhile True: x.append(bytearray(2**20))",
        "memory",
        "address space limit",
        limits=PATIENT,
    ),
    Attack(
        "memory, each MemoryError swallowed",
        "x = []\nwhile True:\n    try:\n        x.append(bytearray(2**20))\n    except MemoryError: pass",
        "timeout",
        "address space limit, wall clock limit",
    ),
    Attack(
        "a huge integer power",
        "print(len(str(7 ** 7 ** 7 ** 7)))",
        "timeout memory runtime_error",
        "wall clock or address space limit",
    ),
    Attack("a MemoryError raised by hand", "raise MemoryError", "runtime_error", "told from a real one", exit_code=1),
    Attack(
        "memory in shared files",
        TRY + "refused(os.memfd_create, 'hoard')\nimport mmap\nrefused(mmap.mmap, -1, 2**40)",
        "ok",
        "seccomp, address space limit",
        "refused\nrefused\n",
    ),
    Attack(
        "memory that cannot be swapped",
        RAW + "raw(149, 228, 0, 4096)\nraw(151, 230, 3)",
        "ok",
        "seccomp",
        "refused\nrefused\n",
    ),
    # output and input
    Attack(
        "1 GB of output",
        "for _ in range(1024): print('x' * 2**20)",
        "output_limit",
        "file size limit",
        signal="SIGXFSZ",
    ),
    Attack(
        "1 GB of errors",
        "import sys\nfor _ in range(1024): sys.stderr.write('x' * 2**20)",
        "output_limit",
        "file size limit",
        signal="SIGXFSZ",
    ),
    Attack(
        "output beyond its limit, SIGXFSZ ignored",
        "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfor _ in range(100):\n    try: os.write(1, b'x' * 2**16)\n    except OSError: pass",
        "output_limit",
        "file size limit, seen afterwards",
    ),
    Attack(
        "reading stdin for ever", "import sys\nwhile sys.stdin.read(1): pass\nprint('end')", "ok", "stdin ends", "end\n"
    ),
    Attack("closing stdout", "import sys\nprint('a')\nsys.stdout.flush()\nsys.stdout.close()", "ok", "harmless", "a\n"),
    Attack(
        "closing every descriptor",
        "import os\nos.closerange(0, 64)\nraise MemoryError",
        "runtime_error",
        "harmless",
        "",
    ),
    Attack(
        "binary output",
        r"import sys; sys.stdout.buffer.write(b'a\xff\x00\xfe\n')",
        "ok",
        "decoded with U+FFFD",
        "a\ufffd\x00\ufffd\n",
    ),
    Attack(
        "a terminal escape",
        r"print('\x1b]0;owned\x07\x1b[2J')",
        "ok",
        "handed on as data, never printed",
        "\x1b]0;owned\x07\x1b[2J\n",
    ),
    Attack("a lone surrogate", r"print('\ud800')", "runtime_error", "cannot be encoded", ""),
    # ending oddly
    Attack("endless recursion", "def f(): f()\nf()", "runtime_error", "RecursionError", ""),
    Attack(
        "endless recursion without Python's limit",
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nA().y",
        "killed memory timeout runtime_error",
        "its own process crashes",
    ),
    Attack(
        "a segmentation fault",
        "import ctypes\nctypes.string_at(0)",
        "killed",
        "its own process crashes",
        "",
        signal="SIGSEGV",
    ),
    Attack("abort, with a core dump", "import os\nos.abort()", "killed", "core dumps are off", "", signal="SIGABRT"),
    Attack("killing itself", "import os\nos.kill(os.getpid(), 9)", "killed", "told from a limit", "", signal="SIGKILL"),
    Attack(
        "os._exit(0) after printing",
        "import os\nos.write(1, b'said\\n')\nos._exit(0)",
        "ok",
        "the same as ending",
        "said\n",
    ),
    Attack("sys.exit(7)", "import sys\nsys.exit(7)", "runtime_error", "its exit status is told", "", exit_code=7),
    Attack(
        "the exit status of a refused compilation",
        "import os\nos._exit(3)",
        "runtime_error",
        "settled before it ran",
        "",
        exit_code=3,
    ),
    Attack(
        "the exit status of a broken sandbox",
        "import os\nos._exit(4)",
        "runtime_error",
        "settled before it ran",
        "",
        exit_code=4,
    ),
    Attack(
        "raising SyntaxError itself",
        "raise SyntaxError('mine')",
        "runtime_error",
        "told from the compiler's",
        "",
        exit_code=1,
    ),
    Attack("compiling what is no Python", "eval('1 +')", "runtime_error", "told from the compiler's", "", exit_code=1),
    Attack("a NUL in the source", "print(1)\0", "syntax_error", "the compiler refuses it", ""),
    Attack("nesting that breaks the compiler", "(" * 10000, "syntax_error", "the compiler refuses it", ""),
    # processes
    Attack("forking", TRY + "refused(os.fork)", "ok", "seccomp", "refused\n"),
    Attack("a fork bomb", "import os\nwhile True: os.fork()", "runtime_error", "seccomp", ""),
    Attack(
        "a fork bomb where forking is allowed",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "timeout",
        "process limit, wall clock limit, sweep of the pid namespace",
        limits=FORKING,
    ),
    Attack(
        "a thread bomb",
        "import threading, time\ntry:\n    while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\nexcept RuntimeError: print('refused')",
        "ok",
        "process limit, address space limit",
        "refused\n",
    ),
    Attack(
        "a daemon left behind",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\nprint('left')",
        "ok",
        "sweep of the pid namespace",
        "left\n",
        limits=FORKING,
    ),
    Attack(
        "children that ignore every signal",
        "import os, signal, time\nfor _ in range(5):\n    if os.fork() == 0:\n        for s in range(1, 64):\n            try: signal.signal(s, signal.SIG_IGN)\n            except (OSError, ValueError): pass\n        os.setsid()\n        while True: pass\nprint('left')",
        "ok",
        "sweep of the pid namespace",
        "left\n",
        limits=FORKING,
    ),
    Attack(
        "zombies",
        "import os\nfor _ in range(7):\n    if os.fork() == 0: os._exit(0)\nprint('left')",
        "ok",
        "reaped by pid 1",
        "left\n",
        limits=FORKING,
    ),
    Attack(
        "killing its parent",
        "import os\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass\nprint('sent')",
        "ok",
        "pid 1 of the namespace takes no signal from within",
        "sent\n",
    ),
    Attack(
        "interrupting its parent",
        "import os\nfor s in range(1, 65):\n    if s not in (32, 33):\n        try: os.kill(os.getppid(), s)\n        except OSError: pass\nprint('sent')",
        "ok",
        "pid 1 of the namespace takes no signal from within",
        "sent\n",
    ),
    Attack(
        "killing every pid",
        "import os\nfor pid in [1, -1, *range(2, 70000)]:\n    if pid != os.getpid():\n        try: os.kill(pid, 9)\n        except OSError: pass\nprint('sent')",
        "ok",
        "no other process is in the namespace",
        "sent\n",
        limits=PATIENT,
    ),
    Attack(
        "stopping its parent",
        "import os, signal\ntry: os.kill(os.getppid(), signal.SIGSTOP)\nexcept OSError: pass\nprint('sent')",
        "ok",
        "pid 1 of the namespace takes no signal from within",
        "sent\n",
    ),
    Attack(
        "running a program",
        TRY + "refused(os.execv, '/bin/sh', ['sh', '-c', 'echo ESCAPED'])",
        "ok",
        "seccomp, Landlock, nothing there",
        "refused\n",
    ),
    Attack(
        "running a program by subprocess",
        TRY + "import subprocess\nrefused(subprocess.run, ['ls'])",
        "ok",
        "seccomp",
        "refused\n",
    ),
    Attack(
        "lowering the server's limits",
        TRY + "import resource\nrefused(resource.prlimit, os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "ok",
        "seccomp",
        "refused\n",
    ),
    Attack(
        "raising its own limits",
        TRY
        + "import resource\nfor limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):\n    refused(resource.setrlimit, limit, (2**40, 2**40))",
        "ok",
        "hard limits, no capability",
        "refused\nrefused\n",
    ),
    Attack(
        "pinning and slowing its parent",
        TRY
        + "refused(os.sched_setaffinity, os.getppid(), {0})\nrefused(os.setpriority, os.PRIO_PROCESS, os.getppid(), 19)",
        "ok",
        "seccomp",
        "refused\nrefused\n",
    ),
    Attack("tracing its parent", RAW + "raw(101, 117, 16, os.getppid(), 0, 0)", "ok", "seccomp", "refused\n"),
    Attack(
        "reading its parent's memory",
        RAW
        + "raw(310, 270, os.getppid(), 0, 0, 0, 0, 0)\nprint('refused' if not os.path.exists('/proc/1/mem') or not os.access('/proc/1/mem', os.R_OK) else 'ESCAPED')",
        "ok",
        "seccomp, no /proc",
        "refused\nrefused\n",
    ),
    Attack(
        "taking its parent's descriptors",
        RAW + "raw(438, 438, 3, 3, 0)\nraw(434, 434, os.getppid(), 0)",
        "ok",
        "seccomp",
        "refused\nrefused\n",
    ),
    Attack(
        "becoming root",
        TRY + "refused(os.setuid, 0)\nrefused(os.setgroups, [0])\nprint(os.getuid() != 0)",
        "ok",
        "seccomp, no capability",
        "refused\nrefused\nTrue\n",
    ),
    Attack(
        "a namespace of its own",
        RAW + "raw(272, 97, 0x10000000)\nraw(56, 220, 0x10000011, 0, 0, 0, 0)\nraw(435, 435, 0, 0)",
        "ok",
        "seccomp",
        "refused\nrefused\nrefused\n",
    ),
    Attack(
        "loosening seccomp",
        RAW
        + "libc = ctypes.CDLL(None)\nprint('refused' if libc.prctl(22, 0, 0) else 'ESCAPED')\nraw(317, 277, 1, 0, 0)\nprint('refused' if libc.prctl(4, 1) else 'ESCAPED')",
        "ok",
        "seccomp",
        "refused\nrefused\nrefused\n",
    ),
    # files
    Attack(
        "reading /etc/passwd",
        TRY + "refused(open, '/etc/passwd')\nrefused(os.listdir, '/etc/ssl')",
        "ok",
        "not in its root, Landlock",
        "refused\nrefused\n",
    ),
    Attack(
        "reading the home folder",
        TRY + "refused(os.listdir, '@HOME@/.config')\nrefused(open, '@HOME@/.bashrc')\nrefused(os.listdir, '/home')",
        "ok",
        "not in its root, Landlock",
        "refused\nrefused\nrefused\n",
    ),
    Attack(
        "reading a file that is open to all",
        TRY + "refused(open, '@OUTSIDE@/secret')\nrefused(os.listdir, '@OUTSIDE@')",
        "ok",
        "not in its root, Landlock",
        "refused\nrefused\n",
    ),
    Attack(
        "writing where all may write",
        TRY
        + "for place in ('@OUTSIDE@', '/var/tmp', '/dev/shm', '/'):\n    refused(open, place + '/llm_gym_escape', 'w')",
        "ok",
        "not in its root, read-only, Landlock",
        "refused\n" * 4,
    ),
    Attack(
        "changing the standard library",
        TRY + "refused(open, os.__file__, 'a')\nrefused(os.remove, os.__file__)\nrefused(os.chmod, os.__file__, 0o777)",
        "ok",
        "read-only, Landlock, account",
        "refused\n" * 3,
    ),
    Attack(
        "reading installed packages",
        "try:\n    import llm_gym\n    print('ESCAPED')\nexcept ImportError: print('refused')",
        "ok",
        "hidden from it",
        "refused\n",
    ),
    Attack(
        "the parent's environment",
        "import os\nprint(dict(os.environ))\nfor pid in (1, os.getpid(), os.getppid()):\n    try: print('SECRET' in open(f'/proc/{pid}/environ').read())\n    except OSError: print('refused')",
        "ok",
        "empty environment, no /proc",
        "{}\n" + "refused\n" * 3,
    ),
    Attack(
        "symlinks to the outside",
        "import os, tempfile\ntry:\n    os.chdir(tempfile.gettempdir())\n    os.symlink('@OUTSIDE@/secret', 'link')\n    os.symlink('/', 'root')\n    print('ESCAPED', open('link').read(), open('root/etc/passwd').read())\nexcept OSError: print('refused')",
        "ok",
        "not in its root, Landlock",
        "refused\n",
    ),
    Attack(
        "hard links and renames to the outside",
        TRY
        + "refused(os.link, '@OUTSIDE@/secret', '/tmp/mine')\nrefused(os.rename, '@OUTSIDE@/secret', '/tmp/mine')\nrefused(os.rename, '/tmp', '/elsewhere')",
        "ok",
        "not in its root, Landlock",
        "refused\n" * 3,
    ),
    Attack(
        "devices",
        TRY
        + "import stat\nrefused(os.mknod, '/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nrefused(open, '/dev/mem', 'rb')",
        "ok",
        "seccomp, no such device",
        "refused\nrefused\n",
    ),
    Attack(
        "filling the disk",
        TRY
        + "def fill():\n    for i in range(10**6):\n        with open(f'/tmp/{i}', 'wb') as file: file.write(b'x' * 2**15)\nrefused(fill)",
        "ok",
        "16 MB tmpfs",
        "refused\n",
        limits=PATIENT,
    ),
    Attack(
        "a million empty files",
        TRY + "def fill():\n    for i in range(10**6): open(f'/tmp/{i}', 'w').close()\nrefused(fill)",
        "ok",
        "4096 inodes",
        "refused\n",
        limits=PATIENT,
    ),
    Attack(
        "one huge file", "import os\nos.ftruncate(1, 2**40)", "output_limit", "file size limit", "", signal="SIGXFSZ"
    ),
    Attack(
        "a folder 2,000 levels deep",
        "import os\ntry:\n    os.chdir('/tmp')\n    for _ in range(2000):\n        os.mkdir('d'); os.chdir('d')\nexcept OSError: pass\nprint('dug')",
        "ok",
        "wiped level by level",
        "dug\n",
        limits=PATIENT,
    ),
    Attack(
        "folders locked against the wipe",
        "import os\ntry:\n    for i in range(20):\n        os.makedirs(f'/tmp/{i}/x/y'); os.chmod(f'/tmp/{i}/x', 0); os.chmod(f'/tmp/{i}', 0)\n    os.chmod('/tmp', 0)\nexcept OSError: pass\nprint('locked')",
        "ok",
        "unlocked and wiped",
        "locked\n",
    ),
    Attack(
        "a file left for the next program",
        "try:\n    with open('/tmp/left', 'w') as file: file.write('x')\nexcept OSError: pass\nprint('left')",
        "ok",
        "/tmp is wiped, or nothing is writable",
        "left\n",
    ),
    Attack(
        "set-user-id",
        "import os\ntry:\n    open('/tmp/s', 'w').close(); os.chmod('/tmp/s', 0o4777); os.execv('/tmp/s', ['s'])\n    print('ESCAPED')\nexcept OSError: print('refused')",
        "ok",
        "nosuid, noexec, no_new_privs, seccomp",
        "refused\n",
    ),
    Attack(
        "mounting",
        RAW + "raw(165, 40, b'tmpfs', b'/tmp', b'tmpfs', 0, 0)\nraw(428, 428, -100, b'/', 1)\nraw(161, 51, b'/tmp')",
        "ok",
        "seccomp, no capability",
        "refused\n" * 3,
    ),
    # other channels
    Attack(
        "a socket to loopback",
        TRY
        + "import socket\nrefused(socket.create_connection, ('127.0.0.1', 22), 1)\nrefused(socket.socket, socket.AF_INET6)",
        "ok",
        "seccomp, net namespace",
        "refused\nrefused\n",
    ),
    Attack(
        "a socket to the outside",
        TRY
        + "import socket\nrefused(socket.create_connection, ('1.1.1.1', 53), 1)\nrefused(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)",
        "ok",
        "seccomp, net namespace",
        "refused\nrefused\n",
    ),
    Attack(
        "asking DNS",
        TRY + "import socket\nrefused(socket.getaddrinfo, 'example.com', 80)",
        "ok",
        "seccomp, net namespace",
        "refused\n",
    ),
    Attack(
        "unix and netlink sockets",
        TRY
        + "import socket\nrefused(socket.socket, socket.AF_UNIX)\nrefused(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)",
        "ok",
        "seccomp",
        "refused\nrefused\n",
    ),
    Attack(
        "System V shared memory and queues",
        RAW + "raw(29, 194, 1, 4096, 0o1666)\nraw(64, 190, 1, 1, 0o1666)\nraw(68, 186, 1, 0o1666)",
        "ok",
        "seccomp, ipc namespace",
        "refused\n" * 3,
    ),
    Attack(
        "POSIX shared memory",
        TRY + "from multiprocessing import shared_memory\nrefused(shared_memory.SharedMemory, 'x', True, 4096)",
        "ok",
        "no /dev/shm",
        "refused\n",
    ),
    Attack(
        "kernel keyrings",
        RAW + "raw(248, 217, b'user', b'note', b'text', 4, -4)\nraw(250, 219, 0, -4, 1)",
        "ok",
        "seccomp",
        "refused\nrefused\n",
    ),
    Attack(
        "io_uring, bpf, userfaultfd, perf events",
        RAW
        + "raw(425, 425, 1, bytes(120))\nraw(321, 280, 0, bytes(120), 120)\nraw(323, 282, 0)\nraw(298, 241, bytes(120), 0, -1, -1, 0)",
        "ok",
        "seccomp",
        "refused\n" * 4,
    ),
    Attack(
        "typing into a terminal",
        RAW
        + "import fcntl\nfor fd in (0, 1, 2):\n    try:\n        fcntl.ioctl(fd, 0x5412, b'x'); print('ESCAPED')\n    except OSError: print('refused')",
        "ok",
        "no terminal, seccomp",
        "refused\n" * 3,
    ),
    Attack(
        "writing to inherited descriptors",
        "import os\nfor fd in range(3, 1024):\n    try:\n        os.write(fd, b'forged' * 20); print('ESCAPED', fd)\n    except OSError: pass\nprint('none')",
        "ok",
        "none is inherited",
        "none\n",
    ),
    # the next program
    Attack(
        "monkey-patching everything",
        "import builtins, os, sys, io\nreal, set_, names, modules = os.write, setattr, dir(builtins), list(sys.modules)\nfor name in names:\n    if name[0] != '_': set_(builtins, name, None)\nfor name in modules: sys.modules[name] = None\nos._exit = os.fork = os.kill = os.write = None\nsys.stdout = None\nreal(1, b'patched\\n')",
        "ok runtime_error",
        "its process is thrown away",
        "patched\n",
    ),
    Attack(
        "searching frames for the server",
        "import sys, gc\nframe = sys._getframe()\nwhile frame:\n    for value in list(frame.f_globals.values()):\n        if hasattr(value, 'serve'): value.serve = None\n    frame = frame.f_back\nfor thing in gc.get_objects():\n    if type(thing).__name__ == 'Server':\n        for name in list(vars(thing)): setattr(thing, name, None)\nprint('searched')",
        "ok",
        "finds a copy, without its connection",
        "searched\n",
    ),
    Attack(
        "a handler for every signal",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, lambda *a: None)\n    except (OSError, ValueError): pass\nprint('set')",
        "ok",
        "its process is thrown away",
        "set\n",
    ),
    Attack(
        "printing from a finaliser",
        "class A:\n    def __del__(self): print('bye')\na = A()\nprint('hi')",
        "ok",
        "runs, as in Python",
        "hi\nbye\n",
    ),
    Attack(
        "a lock on a file of the next program",
        "import fcntl\nfcntl.flock(0, fcntl.LOCK_EX)\nprint('locked')",
        "ok",
        "every program has files of its own",
        "locked\n",
    ),
]
