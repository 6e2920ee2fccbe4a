"""Isolates a server, once, before it runs programs. Each step names its layer if the kernel refuses."""

from __future__ import annotations

import _socket
import glob
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from llm_gym.sandbox.worker import kernel

NAMESPACES, LANDLOCK, SECCOMP, ACCOUNT = "namespaces", "landlock", "seccomp", "unprivileged account"
NOBODY = 65534
TEMPORARY = "/tmp"  # noqa: S108 - a tmpfs of the sandbox's own
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_INODES = 4096
MOST_FILES = 64


class LayerMissing(Exception):
    """A requested layer is not available here.

    Args:
        layer: One of `NAMESPACES`, `LANDLOCK`, `SECCOMP`, `ACCOUNT`.
        detail: What the kernel said.
    """

    def __init__(self, layer: str, detail: str) -> None:
        super().__init__(layer, detail)
        self.layer = layer
        self.detail = detail


@contextmanager
def layer(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, AttributeError) as error:
        raise LayerMissing(name, getattr(error, "strerror", None) or str(error)) from error


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map") as table:
        rows = [[int(field) for field in line.split()] for line in table]
    return any(first <= uid < first + count for first, _, count in rows)


def may_become_nobody() -> bool:
    """Whether this is root and the account `nobody` exists here to change to."""
    return os.geteuid() == 0 and (not os.path.exists("/proc/self/uid_map") or _is_mapped(NOBODY))


def become_nobody() -> None:
    """Root's children must not be root: files, signals and the process limit all spare uid 0."""
    with layer(ACCOUNT):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def enter_user_namespace(flags: int, proc_self: int, uid: int, gid: int) -> None:
    """New namespaces in which this account, `uid` and `gid` outside, is nobody; `proc_self` is an open /proc/self."""
    kernel.unshare(kernel.NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        file = os.open(name, os.O_WRONLY, dir_fd=proc_self)
        os.write(file, text.encode())
        os.close(file)


def enter_namespaces(flags: int) -> None:
    """New namespaces for this process and, for pids, for the next one it forks.

    Root makes them with its own power and enters a user namespace last, as nobody; anyone else enters the user
    namespace first.
    """
    if may_become_nobody():
        kernel.unshare(flags)
    else:
        proc_self = os.open("/proc/self", os.O_DIRECTORY)
        enter_user_namespace(flags, proc_self, os.geteuid(), os.getegid())
        os.close(proc_self)


def leave_namespaces() -> None:
    """The first step: every namespace is a new one."""
    with layer(NAMESPACES):
        enter_namespaces(kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS)


def visible_paths() -> list[str]:
    """The standard library and the shared libraries it may load: the only files of this machine that a program sees."""
    own = [entry for entry in sys.path if not entry.endswith("-packages")]
    roots = [*own, os.path.join(sys.base_prefix, "lib"), *_LIBRARIES]
    existing = {
        form
        for path in roots
        if path
        for form in (os.path.abspath(path), os.path.realpath(path))
        if os.path.exists(form)
    }
    return [path for path in sorted(existing) if not any(path.startswith(f"{other}/") for other in existing)]


def hidden_paths(visible: list[str]) -> list[str]:
    """Installed packages below `visible`: this one, with its tasks and their solutions, may be among them."""
    patterns = [
        f"{root}{middle}/{name}-packages"
        for root in visible
        for middle in ("", "/python3*")
        for name in ("site", "dist")
    ]
    return sorted({os.path.realpath(path) for pattern in patterns for path in glob.glob(pattern)})


def preloaded_packages() -> list[str]:
    """Paths of the loaded packages outside the standard library. They stay visible, for what they import later."""
    standard = sys.stdlib_module_names
    found = set()
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        origin = getattr(sys.modules.get(top), "__file__", None)
        if top in standard or top in ("llm_gym", "__main__") or not origin or module is None:
            continue
        place = os.path.dirname(origin) if os.path.basename(origin).startswith("__init__.") else origin
        found.add(place)
        libraries = os.path.join(os.path.dirname(place), f"{top}.libs")
        if os.path.isdir(libraries):
            found.add(libraries)
    return sorted(found)


def _build_root(temporary_bytes: int) -> None:
    """A read-only root with the standard library, nothing of /proc, /etc or home, and a small private /tmp."""
    visible, packages = visible_paths(), preloaded_packages()
    for path in [*visible, *packages]:
        if path.startswith(f"{TEMPORARY}/"):
            raise LayerMissing(
                NAMESPACES,
                f"Python needs {path}, which a program's own {TEMPORARY} would hide: use one that lies elsewhere",
            )
    kernel.mount(None, "/", kernel.MS_REC | kernel.MS_PRIVATE)
    hidden = hidden_paths(visible)
    links = {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
    copies = {path: kernel.detached_copy(path) for path in [*visible, *packages, *_DEVICES] if os.path.exists(path)}
    is_folder = {path: os.path.isdir(path) for path in copies}
    # Any folder that surely exists can carry the new root: only this mount namespace sees it.
    root = os.path.dirname(os.path.abspath(__file__))
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", root, safe, "size=1m,mode=755")
    kernel.pivot_to(root)

    def attach(path: str) -> None:
        if is_folder[path]:
            os.makedirs(path, exist_ok=True)
        elif not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.attach(copies[path], path)

    for path in visible:
        attach(path)
    for path in hidden:
        kernel.mount("tmpfs", path, safe, "size=1m,mode=755")
    for path in [*packages, *_DEVICES]:
        if path in copies:
            attach(path)
    for path, target in links.items():
        if not os.path.lexists(path):
            os.symlink(target, path)
    os.mkdir(TEMPORARY)
    slash = os.open("/", os.O_PATH)
    kernel.set_mount_attributes(slash, kernel.ATTR_READONLY | kernel.ATTR_NOSUID)
    os.close(slash)
    account = f"uid={NOBODY},gid={NOBODY}"
    kernel.mount(
        "tmpfs", TEMPORARY, safe | kernel.MS_NOEXEC, f"size={temporary_bytes},nr_inodes={_INODES},mode=700,{account}"
    )


def _landlock_without_mounts() -> None:
    """Where no mounts can be made, Landlock alone decides what is read; nothing is writable."""
    visible = visible_paths()
    hidden = hidden_paths(visible)
    listable, readable = [], [*preloaded_packages(), *(path for path in _DEVICES if os.path.exists(path))]
    waiting = list(visible)
    while waiting:
        path = waiting.pop()
        if path in hidden:
            continue
        if any(other.startswith(f"{path}/") for other in hidden):
            listable.append(path)
            waiting += [os.path.join(path, name) for name in os.listdir(path)]
        elif os.path.exists(path):
            readable.append(path)
    kernel.landlock(readable, [], listable)


def _limit_resources() -> None:
    """Limits that are the same for all programs. Those that differ are set in the programs' own processes."""
    fixed = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MOST_FILES,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_STACK: 8 << 20,
        getattr(resource, "RLIMIT_MSGQUEUE", None): 0,
    }
    for limit, value in fixed.items():
        if limit is not None:
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))


def enter_sandbox(layers: list[str], temporary_bytes: int) -> None:
    """All layers, before the first program, in an order that leaves each step the privileges it needs."""
    _limit_resources()
    if NAMESPACES in layers:
        with layer(NAMESPACES):
            proc_self = os.open("/proc/self", os.O_DIRECTORY)
            _socket.sethostname("sandbox")
            root = may_become_nobody()
            _build_root(temporary_bytes)
            if root:
                become_nobody()
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
                enter_user_namespace(0, proc_self, NOBODY, NOBODY)
            os.close(proc_self)
            os.chdir(TEMPORARY)
    else:
        if os.geteuid() == 0:
            if not may_become_nobody():
                raise LayerMissing(ACCOUNT, "running as root without namespaces, and there is no account to change to")
            become_nobody()
        library = os.path.dirname(os.__file__)
        if not os.access(library, os.R_OK | os.X_OK):
            raise LayerMissing(ACCOUNT, f"the account the programs run under cannot read {library}")
        os.chdir("/")
    if LANDLOCK in layers:
        with layer(LANDLOCK):
            if NAMESPACES in layers:
                kernel.landlock(["/"], [TEMPORARY, *(path for path in _DEVICES if os.path.exists(path))])
            else:
                _landlock_without_mounts()
    if sys.platform == "linux":
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        # Last before the filter: changing account or capabilities clears both.
        if NAMESPACES in layers:
            # Its parent is the watcher. Elsewhere that is a thread of the pool's process, which may end before it.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if SECCOMP in layers:
        with layer(SECCOMP):
            kernel.prepared_seccomp(kernel.allow_list())()
