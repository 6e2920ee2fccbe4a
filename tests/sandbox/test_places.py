"""Where the sandbox runs: any account, folder and interpreter, with and without namespaces, with packages preloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gym.sandbox import Limits, Pool, SandboxUnavailable
from tests.sandbox.conftest import BOOT, MOST, interpreter_for_everyone, package, pool_or_skip


@pytest.fixture
def package_for_everyone() -> Iterator[str]:
    """A copy of the package that every account may read, which this clone may not be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        sandbox = Path(folder) / "llm_gym" / "sandbox"
        shutil.copytree(Path(package()) / "sandbox", sandbox, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (sandbox.parent, sandbox, *sandbox.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        yield str(sandbox.parent)


ORDINARY = """
from llm_gym.sandbox import Pool, probe
for isolation in ("full", "container"):
    with Pool(isolation=isolation) as pool:
        print(pool.layers, pool.run("import os; print(os.getuid() != 0)").stdout.strip(), end=" ")
        print(pool.run("open('/etc/passwd')").status, pool.run("import os; os.fork()").status)
"""


def test_works_for_an_ordinary_user(package_for_everyone: str) -> None:
    interpreter = interpreter_for_everyone()
    if interpreter is None:
        pytest.skip("no interpreter that everyone may start")

    def become_ordinary() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

    user = subprocess.run(
        [interpreter, "-S", "-B", "-c", BOOT + ORDINARY, package_for_everyone],
        preexec_fn=become_ordinary,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "SandboxUnavailable" in user.stderr:
        pytest.skip(user.stderr.strip().rpartition("\n")[2])
    assert user.stdout.splitlines() == [
        "('namespaces', 'landlock', 'seccomp') True runtime_error runtime_error",
        "('landlock', 'seccomp') True runtime_error runtime_error",
    ], user.stderr


# A seccomp filter that refuses unshare(2), as Docker's default profile does, put on before the pool is made.
NO_NAMESPACES = """
import errno, platform
from llm_gym.sandbox.worker import kernel
number = 272 if platform.machine() == "x86_64" else 97
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
refuse, allow = (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)
kernel.prepared_seccomp([(0x20, 0, 0, 0), (0x15, 0, 1, number), refuse, allow])()
from llm_gym.sandbox import Pool, SandboxUnavailable, run
try:
    run("print(1)")
except SandboxUnavailable as error:
    print(error)
with Pool(isolation="best_effort") as pool:
    print(pool.layers, pool.run("import os; print(os.getuid() != 0)").stdout.strip(), end=" ")
    print(pool.run("open('/etc/passwd')").status)
"""


def test_without_namespaces_full_isolation_refuses_and_best_effort_goes_on_without_root() -> None:
    interpreter = interpreter_for_everyone()
    if interpreter is None:
        pytest.skip("no interpreter that everyone may start")
    container = subprocess.run(
        [interpreter, "-S", "-B", "-c", BOOT + NO_NAMESPACES, package()],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    refusal, layers = container.stdout.splitlines()
    assert refusal.startswith(
        "sandbox layer 'namespaces' is missing here: unshare: Operation not permitted (isolation='container'"
    )
    assert layers == "('landlock', 'seccomp') True runtime_error"


def test_an_interpreter_that_does_not_start_is_one_clear_line() -> None:
    with (
        Pool(interpreter="/nonexistent/python") as pool,
        pytest.raises(SandboxUnavailable, match="nonexistent/python did not"),
    ):
        pool.run("pass")


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder in /tmp that only this account may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        yield Path(folder)


USES_TMP = """
import os
print(os.listdir("/tmp"), os.path.exists({folder!r}))
with open("/tmp/mine", "w") as file:
    file.write("x")
print(os.listdir("/tmp"))
"""


def check_tmp_is_the_programs_own(pool: Pool, folder: Path) -> None:
    for _ in range(2):  # and it is wiped in between
        assert pool.run(USES_TMP.format(folder=str(folder))).stdout == "[] False\n['mine']\n"
    assert pool.layers == ("namespaces", "landlock", "seccomp")


def test_packages_may_lie_in_a_private_folder_in_tmp(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = private / "site-packages"
    for name in ("lies_in_tmp", "also_lies_there"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").touch()
        (packages / name / "later.py").write_text("print(__file__)")
    monkeypatch.syspath_prepend(packages)
    with pool_or_skip("full", MOST) as pool:
        check_tmp_is_the_programs_own(pool, private)
        assert "No module named 'lies_in_tmp'" in pool.run("import lies_in_tmp").stderr
    with Pool(preload=("lies_in_tmp",)) as pool:
        check_tmp_is_the_programs_own(pool, private)
        file = pool.run("import lies_in_tmp.later").stdout.strip()
        assert file.endswith("/site-packages/lies_in_tmp/later.py")
        assert not file.startswith("/tmp/")
        for path in (file, os.path.dirname(file), os.path.dirname(os.path.dirname(file))):
            assert pool.run(f"import os; os.chmod({path!r}, 0o777)").stderr.endswith(
                f"Read-only file system: {path!r}\n"
            )
        assert "No module named 'also_lies_there'" in pool.run("import also_lies_there").stderr
        assert not Path(file).exists(), "it may be seen there by the server alone"


def test_python_itself_may_lie_in_a_private_folder_in_tmp(private: Path) -> None:
    library = Path(os.__file__).parent
    python = private / "bin" / "python3"
    python.parent.mkdir()
    (private / "lib").mkdir()
    (private / "lib" / library.name).symlink_to(library)
    shutil.copy(os.path.realpath(sys.executable), python)
    started = subprocess.run([python, "-S", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    if started.stdout != f"{private}\n":
        pytest.skip(f"{python.name} cannot be moved: it takes {started.stdout.strip()!r} for its folder")
    pool_or_skip("full", MOST).close()
    with Pool(interpreter=str(python)) as pool:
        check_tmp_is_the_programs_own(pool, private)
        result = pool.run("import csv, sys\nprint(csv.__file__.startswith('/tmp/'), sys.path[0].startswith('/tmp/'))")
        assert result.stdout == "False False\n", result


def test_a_private_umask_hides_no_module_from_programs() -> None:
    before = os.umask(0o077)
    try:
        with pool_or_skip("full", MOST) as pool:
            assert pool.run("import csv, xml.dom\nprint('imported')").stdout == "imported\n"
    finally:
        os.umask(before)


def test_module_that_cannot_be_preloaded_is_one_clear_line() -> None:
    with Pool(preload=("no_such_module",)) as pool, pytest.raises(SandboxUnavailable, match="no_such_module"):
        pool.run("pass")


def test_preloaded_package_works_and_only_that_is_visible() -> None:
    with Pool(preload=("numpy",), limits=Limits(wall_s=10.0)) as pool:
        assert pool.layers
        result = pool.run("import numpy as np\nprint(np.linalg.det(np.eye(3)), np.random.default_rng(0).integers(10))")
        assert result.stdout == "1.0 8\n", result
        assert len({pool.run("import numpy; print(numpy.random.rand())").stdout for _ in range(3)}) == 3
        assert "No module named 'gymnasium'" in pool.run("import gymnasium").stderr


def test_import_is_light() -> None:
    code = BOOT + "import llm_gym.sandbox; print([m for m in ('numpy', 'gymnasium', 'torch') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-S", "-c", code, package()], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr
