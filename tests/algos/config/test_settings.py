"""Settings that cannot work together are one clear line and exit status 2, before any model loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from algos import grpo, ppo, spiral
from algos.training import trainer

MAIN: dict[str, Callable[[list[str]], None]] = {"grpo": grpo.main, "ppo": ppo.main, "spiral": spiral.main}
WRONG = [
    ("grpo", "--rollout.episodes 20 --grpo.group_size 8", "not a multiple of grpo.group_size 8"),
    (
        "grpo",
        "--rollout.episodes 24 --grpo.group_size 8 --grpo.minibatches 2",
        "3 groups (rollout.episodes / grpo.group_size) do not divide",
    ),
    ("ppo", "--rollout.episodes 10 --ppo.minibatches 4", "10 episodes (rollout.episodes) do not divide"),
    ("spiral", "--rollout.episodes 9 --spiral.minibatches 2", "1 process(es) x 2 spiral.minibatches"),
    ("grpo", "--grpo.advantage_level same_prompt", "set grpo.advantage none"),
    ("grpo", "--grpo.final_kl_coef 0.1", "grpo: final_kl_coef is the value at which kl_coef ends, and kl_coef is 0"),
    ("ppo", "--ppo.final_kl_coef 0.1", "ppo: final_kl_coef is the value at which kl_coef ends, and kl_coef is 0"),
    ("ppo", "--ppo.kl_target 0.1", "adapts ppo.kl_coef, which is 0"),
    ("ppo", "--ppo.kl_target 0.1 --ppo.kl_coef 0.1 --ppo.final_kl_coef 0", "both change ppo.kl_coef"),
    ("ppo", "--ppo.critic separate --model.quantize nf4 --model.lora_rank 4", "4-bit weights cannot be trained"),
    ("ppo", "--ppo.kl_direction forward --ppo.kl_coef 0.1 --ppo.kl_in reward", "set ppo.kl_in loss"),
    ("spiral", "--spiral.magnet_every 5", "spiral.magnet_every has an effect only with a magnet"),
    (
        "spiral",
        "--spiral.final_kl_coef 0.1",
        "spiral: final_kl_coef is the value at which kl_coef ends, and kl_coef is 0",
    ),
    ("spiral", "--env.id llmgym/PasswordGame-v0", "use gymnasium.make"),
    ("spiral", "--env.id llmgym/NoSuchGame-v0", "NoSuchGame"),
    ("grpo", "--grpo.seats all --env.id llmgym/PasswordGame-v0", "use gymnasium.make"),
    ("ppo", "--env.opponent nobody", "env: "),
    ("ppo", "--ppo.lamda 0.9", "did you mean ppo.gae_lambda"),
]


@pytest.mark.parametrize(("algorithm", "words", "told"), WRONG)
def test_what_cannot_work_is_told_in_one_line_before_a_model_loads(
    algorithm: str,
    words: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for slow in ("load_model", "tiny_model", "Accelerator"):
        if hasattr(trainer, slow):
            monkeypatch.setattr(trainer, slow, lambda *given, **named: pytest.fail("it went on"))
    with pytest.raises(SystemExit) as stopped:
        MAIN[algorithm]([*words.split(), "--run.dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not (tmp_path / "run").exists()
