"""The benchmarks' tests use the cache, the single thread and the tiny model of the trainers' tests."""

from tests.algos.conftest import _own_cache_and_one_thread, cache, tiny_folder  # noqa: F401
