"""A vLLM server says what the trained model would, at every version, whatever happens to it and on the way to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from both import Both, agree, free_url, ids, seeded
from fault_proxy import Fault, Proxy, proxy

from algos.model.load import load_model
from algos.rollout.engine import EngineError, check_engine
from algos.run.config import Config, ConfigError

SAMPLING = "/v1/completions"
UPLOAD = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/update_weight_version"]
PATIENCE_S = 15.0
"""How long an answer may take: longer than any that is not held up, on a busy machine too."""


@pytest.fixture(scope="module", params=[0, 8], ids=["full", "lora"])
def both(request: pytest.FixtureRequest, served: Both, settings: Callable[..., Config]) -> Iterator[Both]:
    """A second engine on the server that is running already, as on another host."""
    if not request.param:
        yield served
        return
    start, _ = load_model(served.config.model.path)  # an adapter is on top of the weights that the server began with
    served.model.load_state_dict(start.state_dict())
    served.engine.sync(served.engine.version + 1)
    yield Both(settings("float32", request.param, kind="vllm_server", url=served.config.engine.url))


def test_log_probabilities_are_the_trained_models_at_the_temperature_sampled(both: Both) -> None:
    prompts = both.prompts()
    for temperature in (0.7, 1.0, 1.4):
        assert agree(both, prompts, both.engine.generate(prompts, temperature, seeded()), temperature)
    assert agree(both, prompts, both.engine.generate(prompts, 0.0, seeded()), 1.0)


def test_a_sync_changes_replies_to_the_trained_models(both: Both) -> None:
    prompts = both.prompts()
    before = both.engine.generate(prompts, 0.0, seeded())
    both.train()
    both.engine.sync(both.engine.version + 1)
    after = both.engine.generate(prompts, 0.0, seeded())
    assert ids(after) == ids(both.own(prompts)) != ids(before)
    assert agree(both, prompts, after, 1.0)


def test_a_sync_leaves_no_weights_behind_but_its_own(both: Both) -> None:
    both.engine.sync(both.engine.version + 1)
    folders = [path.name for path in (both.config.run.dir / "weights").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert folders[0].endswith(f"version-{both.engine.version}")


@contextlib.contextmanager
def through_proxy(both: Both, delay_s: float = 0.0, **limits: float) -> Iterator[Proxy]:
    """A proxy that the engine's requests go through."""
    client = both.engine.client
    http, before = client.http, (client.http.base_url, client.http.timeout, client.retry_s)
    with proxy(both.config.engine.url, delay_s) as between:
        http.base_url, http.timeout = between.url, limits.get("request_s", before[1])
        client.retry_s = limits.get("retry_s", before[2])
        try:
            yield between
        finally:
            http.base_url, http.timeout, client.retry_s = before


@pytest.mark.parametrize("fault", ["slow", "500", "cut", "lost"])
def test_faults_while_sampling_lose_nothing_and_double_nothing(both: Both, fault: Fault) -> None:
    prompts = both.prompts()
    undisturbed = both.engine.generate(prompts, 1.0, seeded(5))
    faults = both.engine.client.faults
    with through_proxy(both, delay_s=2 * PATIENCE_S, request_s=PATIENCE_S) as between:
        between.plan[SAMPLING] = [fault] * 5
        samples = both.engine.generate(prompts, 1.0, seeded(5))
    assert between.met[fault] == 5
    assert between.answered[SAMPLING] >= len(prompts)
    assert both.engine.client.faults >= faults + 5
    assert ids(samples) == ids(undisturbed)
    assert agree(both, prompts, samples, 1.0)


@pytest.mark.parametrize(
    ("path", "fault"), [*itertools.product(UPLOAD, ["500", "cut", "lost"]), ("/update_weights", "slow")]
)
def test_faults_while_weights_are_updated_are_made_good(served: Both, path: str, fault: Fault) -> None:
    prompts = served.prompts(4)
    with through_proxy(served, delay_s=2 * PATIENCE_S, request_s=PATIENCE_S) as between:
        between.plan[path] = [fault]
        served.train()
        served.engine.sync(served.engine.version + 1)
    assert between.met[fault] == 1
    assert ids(served.engine.generate(prompts, 0.0, seeded())) == ids(served.own(prompts))


def test_weights_that_did_not_arrive_are_uploaded_once_more_and_then_refused(served: Both) -> None:
    prompts, repeated = served.prompts(4), served.engine.metrics["engine/uploads_repeated"]
    with through_proxy(served) as between:
        between.plan["/update_weights"] = ["swallowed"]
        served.train()
        served.engine.sync(served.engine.version + 1)
        assert served.engine.metrics["engine/uploads_repeated"] == repeated + 1
        assert ids(served.engine.generate(prompts, 0.0, seeded())) == ids(served.own(prompts))
        between.plan["/update_weights"] = ["swallowed"] * 2
        served.train()
        with pytest.raises(EngineError, match=r"engine.tolerance 0.05: after the sync .* differ by"):
            served.engine.sync(served.engine.version + 1)
    served.engine.sync(served.engine.version)


def test_a_server_that_keeps_failing_is_given_up_in_one_line(served: Both) -> None:
    with through_proxy(served, retry_s=1.0) as between:
        between.plan[SAMPLING] = ["500"] * 10_000
        with pytest.raises(EngineError, match=r"gave up after 1 s; POST /v1/completions answered 500: out of order"):
            served.engine.generate(served.prompts(2), 1.0, seeded())


def test_weights_that_another_trainer_uploaded_are_not_sampled_from(
    served: Both, settings: Callable[..., Config]
) -> None:
    prompts = served.prompts()
    expected = served.engine.generate(prompts, 0.0, seeded())
    other = Both(settings(kind="vllm_server", url=served.config.engine.url))
    other.train(0.05)
    other.engine.sync(served.engine.version)
    assert ids(other.engine.generate(prompts, 0.0, seeded())) != ids(expected)
    assert ids(served.engine.generate(prompts, 0.0, seeded())) == ids(expected)


def test_a_server_killed_and_restarted_with_old_weights_gets_the_new_ones(served: Both) -> None:
    served.train()
    served.engine.sync(served.engine.version + 1)
    prompts = served.prompts(48)
    expected = served.engine.generate(prompts, 1.0, seeded(9))
    killed = served.engine.process._process
    with through_proxy(served) as between:

        def kill() -> None:
            while between.answered[SAMPLING] < 8:
                time.sleep(0.01)
            os.killpg(killed.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        samples = served.engine.generate(prompts, 1.0, seeded(9))
        killer.join()
    assert served.engine.process._process.pid != killed.pid
    assert served.engine.metrics["engine/discarded"] > 0
    assert ids(samples) == ids(expected)
    assert agree(served, prompts, samples, 1.0)


def test_a_server_without_what_training_needs_is_refused_before_a_model_loads(
    served: Both, settings: Callable[..., Config]
) -> None:
    check_engine(settings(kind="vllm_server", url=served.config.engine.url))
    with pytest.raises(ConfigError, match="something listens on"):
        check_engine(settings(kind="vllm_server", url=served.config.engine.url, start=True))
    with pytest.raises(ConfigError, match="no vLLM server answers there"):
        check_engine(settings(kind="vllm_server", url=free_url()))
