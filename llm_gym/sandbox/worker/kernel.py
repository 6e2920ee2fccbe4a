"""Kernel interfaces that Python lacks, through ctypes: namespaces, mounts, Landlock, seccomp, capabilities."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable

from llm_gym.sandbox.worker.syscalls import ALLOWED, CAPSET, CHECKED, CLONE3, PIVOT_ROOT, MachineNumbers

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
MNT_DETACH = 2
ATTR_READONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    15,
    16,
    22,
    24,
    38,
)

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 0x8000, 1, 4
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(number: int, what: str, *arguments: object) -> int:
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *longs), what)


def _number(numbers: MachineNumbers) -> int | None:
    column = {"x86_64": 0, "AMD64": 0, "aarch64": 1, "arm64": 1}.get(os.uname().machine)
    if column is None:
        raise OSError(errno.ENOSYS, f"no system call table for {os.uname().machine}")
    return numbers[column]


def prctl(option: int, value: int = 0) -> None:
    """`prctl(option, value)`; raises OSError."""
    _check(
        _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)),
        f"prctl {option}",
    )


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (NEWUSER, NEWNS, ...) name for new ones."""
    _check(_libc.unshare(flags), "unshare")


def mount(kind: str | None, target: str, flags: int, options: str = "") -> None:
    """Mount a file system of `kind`, or change propagation where `kind` is None."""
    name = kind.encode() if kind else None
    _check(
        _libc.mount(name, os.fsencode(target), name, ctypes.c_ulong(flags), options.encode()),
        f"mount {kind} on {target}",
    )


def detached_copy(path: str) -> int:
    """A descriptor of a read-only copy of the mounts at `path`, without set-id programs, not attached anywhere yet."""
    copy = _syscall(
        _OPEN_TREE, f"open_tree {path}", _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    )
    set_mount_attributes(copy, ATTR_READONLY | ATTR_NOSUID)
    return copy


def attach(copy: int, target: str) -> None:
    """Attach a detached mount at `target` and close its descriptor."""
    _syscall(_MOVE_MOUNT, f"move_mount {target}", copy, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    os.close(copy)


def set_mount_attributes(mount_fd: int, attributes: int) -> None:
    """Add `attributes` to the mount that `mount_fd` stands for and to all below it."""
    wanted = struct.pack("<QQQQ", attributes, 0, 0, 0)
    _syscall(_MOUNT_SETATTR, "mount_setattr", mount_fd, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))


def pivot_to(root: str) -> None:
    """Make the mount at `root` this process's `/` and detach everything else."""
    os.chdir(root)
    pivot_root = _number(PIVOT_ROOT)
    assert pivot_root is not None
    _syscall(pivot_root, "pivot_root", b".", b".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break
    capset = _number(CAPSET)
    assert capset is not None
    header, none = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    _syscall(capset, "capset", header, none)


# --- Landlock rights (include/uapi/linux/landlock.h): the first 13 are ABI 1, then one an ABI
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_CHAR, _MAKE_BLOCK = 1, 2, 4, 8, 1 << 6, 1 << 11
_FILE_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14
_ALL_TCP, _ALL_SCOPES = 3, 3


def landlock_abi() -> int:
    """The Landlock version of this kernel; raises OSError where there is none."""
    return _syscall(_LANDLOCK_CREATE, "landlock_create_ruleset", None, 0, 1)


def landlock(readable: Iterable[str], writable: Iterable[str], listable: Iterable[str] = ()) -> int:
    """From now on this process and its children read only below `readable`, write only below `writable`, and execute
    nothing.

    Names, not contents, may be read below `listable`. TCP, abstract unix sockets and signals to processes outside are
    refused too where the kernel's Landlock knows them. Returns its ABI.
    """
    abi = landlock_abi()
    files = _FILE_RIGHTS_BY_ABI[min(abi, 5)]
    handled = struct.pack("<QQQ", files, _ALL_TCP if abi >= 4 else 0, _ALL_SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _syscall(_LANDLOCK_CREATE, "landlock_create_ruleset", handled, size, 0)
    everything_but = files & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)
    for rights, paths in ((_READ_FILE | _READ_DIR, readable), (everything_but, writable), (_READ_DIR, listable)):
        for path in paths:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            granted = rights if os.path.isdir(path) else rights & _ON_FILES
            _syscall(_LANDLOCK_ADD, f"landlock_add_rule {path}", ruleset, 1, struct.pack("<Qi", granted, beneath), 0)
            os.close(beneath)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _syscall(_LANDLOCK_RESTRICT, "landlock_restrict_self", ruleset, 0)
    os.close(ruleset)
    return abi


# --- seccomp: classic BPF over struct seccomp_data (number, architecture, instruction pointer, six 64-bit arguments)
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_FILTER_MODE = 2
_NEW_NAMESPACES = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | 0x2000000
_AF_UNIX = 1
# TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what Python's own files ask for
_IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, the locks, F_DUPFD_CLOEXEC, pipe sizes read: no F_SETOWN,
# F_SETLEASE, F_NOTIFY, no seals
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)

Instruction = tuple[int, int, int, int]


def _argument(index: int) -> int:
    return 16 + 8 * index


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> Instruction:
    return (code, if_true, if_false, value)


def _deny(code: int) -> Instruction:
    return _instruction(_RETURN, _ERRNO | code)


def _when(number: int | None, body: list[Instruction]) -> list[Instruction]:
    """`body` for this system call; for any other, the accumulator still holds its number afterwards."""
    return [] if number is None else [_instruction(_EQUAL, number, 0, len(body)), *body]


def _only(index: int, values: Iterable[int], otherwise: int = errno.EPERM) -> list[Instruction]:
    """Allow the call where its argument's lower 32 bits are one of `values`."""
    allowed = list(values)
    tests = [_instruction(_EQUAL, value, len(allowed) - i) for i, value in enumerate(allowed)]
    return [_instruction(_LOAD, _argument(index)), *tests, _deny(otherwise), _instruction(_RETURN, _ALLOW)]


def allow_list() -> list[Instruction]:
    """The filter of the whole sandbox: the calls of `syscalls.py` and nothing else."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    filter_ = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, _ARCHITECTURES[machine], 1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        filter_ += [_instruction(_AT_LEAST, _X32, 0, 1), _deny(errno.EPERM)]
    for numbers in ALLOWED.values():
        filter_ += _when(_number(numbers), [_instruction(_RETURN, _ALLOW)])
    refuse_namespaces = [
        _instruction(_LOAD, _argument(0)),
        _instruction(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _deny(errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]
    filter_ += _when(_number(CHECKED["clone"]), refuse_namespaces)
    filter_ += _when(_number(CHECKED["socketpair"]), _only(0, [_AF_UNIX]))
    filter_ += _when(_number(CHECKED["prctl"]), _only(0, [PR_SET_NAME, PR_GET_NAME, PR_SET_SECCOMP, PR_SET_PDEATHSIG]))
    filter_ += _when(_number(CHECKED["prlimit64"]), _only(0, [0]))
    filter_ += _when(_number(CHECKED["ioctl"]), _only(1, _IOCTLS, errno.ENOTTY))
    filter_ += _when(_number(CHECKED["fcntl"]), _only(1, _FCNTLS))
    # libc falls back to clone where clone3, whose flags a filter cannot see, is unknown.
    filter_ += _when(_number(CLONE3), [_deny(errno.ENOSYS)])
    return [*filter_, _deny(errno.EPERM)]


def program_filter(may_fork: bool, own_pid: int | None) -> list[Instruction]:
    """What one program is refused on top of `allow_list`.

    Args:
        may_fork: Whether it may start processes; threads it may always start.
        own_pid: Where there is no pid namespace, the only process it may send signals to.
    """
    filter_ = [_instruction(_LOAD, _NUMBER)]
    if not may_fork:
        threads_only = [
            _instruction(_LOAD, _argument(0)),
            _instruction(_ANY_BIT, _CLONE_THREAD, 1),
            _deny(errno.EPERM),
            _instruction(_RETURN, _ALLOW),
        ]
        filter_ += _when(_number(CHECKED["clone"]), threads_only)
        for name in ("fork", "vfork"):
            filter_ += _when(_number(ALLOWED[name]), [_deny(errno.EPERM)])
    if own_pid is not None:
        for name in ("kill", "tgkill"):
            filter_ += _when(_number(ALLOWED[name]), _only(0, [own_pid]))
        filter_ += _when(_number(ALLOWED["tkill"]), [_deny(errno.EPERM)])
    filter_ += _when(_number(ALLOWED["pidfd_open"]), [_deny(errno.EPERM)])
    filter_ += _when(_number(CHECKED["prctl"]), _only(0, [PR_SET_NAME, PR_GET_NAME]))
    return [*filter_, _instruction(_RETURN, _ALLOW)]


def prepared_seccomp(instructions: list[Instruction]) -> Callable[[], None]:
    """A function that puts its process under this filter, for good. All that can be made beforehand is."""
    filter_ = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(filter_, len(filter_))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(instructions), ctypes.addressof(code)))
    # Plain integers, and without errno: every object that the call needs is a page of the program's to be copied.
    call = ctypes.PyDLL(None).prctl

    def install(_keep: object = code) -> None:
        if call(PR_SET_SECCOMP, _FILTER_MODE, program):
            raise OSError("seccomp: the kernel refused the filter")

    return install
