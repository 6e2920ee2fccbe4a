"""PPO with a value head: the gradient by finite differences, what a token is credited with, what the critic reads."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from micro import micro_model, micro_trainer, sections, some_ids, some_rows

from algos import ppo
from algos.data.batching import Batch
from algos.data.episodes import Episode, Turn
from algos.data.rows import Row
from algos.maths.advantages import RunningScale
from algos.model.critic import ActorCritic
from algos.model.forward import Policy
from algos.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("float64")
ONE_STEP = {"ppo__epochs": 1, "ppo__minibatches": 1}
PLAIN = {"ppo__whiten": False, "ppo__gamma": 0.9, "ppo__gae_lambda": 0.8}


def actor_critic(model: Any, temperature: float, separate: bool = False) -> ActorCritic:
    """With a value head that is not at its start, where it answers 0."""
    policy = ActorCritic(model, temperature, separate).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.nn.init.normal_(policy.critic.head.weight)
        torch.nn.init.normal_(policy.critic.head.bias)
    return policy


def trainer_with(wrap: Any = actor_critic, **settings: Any) -> tuple[Any, ppo.PpoConfig]:
    config = ppo.PpoConfig.model_validate(sections("ppo", **settings))
    reference = Policy(micro_model(seed=1), 1.0)
    return micro_trainer(config, Accelerator(), wrap, reference), config


def plain_values(policy: Any, ids: list[int]) -> list[float]:
    """The value head's answer at each token of an ordinary forward pass."""
    out = policy.model(torch.tensor([ids]), output_hidden_states=True)
    return policy.critic.head(out.hidden_states[-1][0])[:, 0].tolist()


def annotated(n: int = 6) -> list[Row]:
    """Rows with what ``ppo.advantage`` gives them, at random."""
    rng, rows = random.Random(3), some_rows(n)
    for row in rows:
        for name, middle in (("values", 0.0), ("value_targets", 0.5)):
            setattr(row, name, row.spread([rng.gauss(middle, 0.5) for _ in range(row.action_tokens)]))
    return rows


def objective(policy: Any, rows: list[Row], config: ppo.PpoConfig, kl_coef: float) -> torch.Tensor:
    """PPO's loss, written out token by token from the papers."""
    total, tokens, settings = torch.zeros(()), sum(row.action_tokens for row in rows), config.ppo
    reference = micro_model(seed=1)
    for row in rows:
        log_q = torch.log_softmax(reference(torch.tensor([row.prompt_ids + row.ids])).logits[0], -1).detach()
        out = policy.model(torch.tensor([row.prompt_ids + row.ids]), output_hidden_states=True)
        log_p = torch.log_softmax(out.logits[0], -1)
        values = policy.critic.head(out.hidden_states[-1][0])[:, 0]
        for i, token in enumerate(row.ids):
            if not row.action_mask[i]:
                continue
            at = len(row.prompt_ids) + i - 1
            now, credit, old = log_p[at, token], row.advantages[i], row.values[i]
            ratio = (now - row.old_logprobs[i]).exp()
            loss = -torch.minimum(ratio * credit, ratio.clamp(0.8, 1.2) * credit)
            target, held = row.value_targets[i], old + (values[at] - old).clamp(-0.2, 0.2)
            error = torch.maximum((values[at] - target) ** 2, (held - target) ** 2)
            loss = loss + settings.value_coef * 0.5 * error
            loss = loss + settings.entropy_coef * (log_p[at].exp() * log_p[at]).sum()
            if settings.kl_in == "loss":
                loss = loss + kl_coef * (log_p[at].exp() * (log_p[at] - log_q[at])).sum()
            total = total + loss / tokens
    return total


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_the_gradient_is_that_of_the_papers_loss_by_finite_differences(kl_in: str) -> None:
    weights = {"ppo__kl_coef": 0.3, "ppo__value_coef": 0.7, "ppo__entropy_coef": 0.05}
    trainer, config = trainer_with(ppo__kl_in=kl_in, optim__micro_batch=4, **weights, **ONE_STEP)
    rows, policy = annotated(), trainer.policy
    still = copy.deepcopy(policy)
    metrics = ppo.update(config, copy.deepcopy(rows), trainer, 0, 0.3)
    assert metrics["losses/total"] == pytest.approx(objective(still, rows, config, 0.3).item(), rel=1e-9)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for (name, start), moved in zip(still.named_parameters(), policy.parameters(), strict=True):
        direction = torch.randn(start.shape, generator=generator)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                start += sign * step * direction
                losses.append(objective(still, rows, config, 0.3).item())
                start -= sign * step * direction
        slope = (losses[0] - losses[1]) / (2 * step)
        assert ((start - moved) * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7), name


def test_two_states_have_two_values_read_where_the_prompt_ends() -> None:
    """Trap: a causal model read at position 0 gives one value for every state."""
    trainer, _ = trainer_with()
    prompts = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 9]]
    rows = [Row(prompt, [7, 8], [True, True], [0.0, 0.0], [0.0, 0.0]) for prompt in prompts]
    values = trainer.policy(Batch.of(rows)).values.view(3, 2)
    for prompt, (before, after_one) in zip(prompts, values.tolist(), strict=True):
        everywhere = plain_values(trainer.policy, [*prompt, 7])
        assert [before, after_one] == pytest.approx(everywhere[-2:], abs=1e-9)
    assert len({round(value, 3) for value in values[:, 0].tolist()}) == 3


def talk(rewards: list[float], observation: int = 3, lengths: tuple[int, ...] = (4, 2), **facts: Any) -> Episode:
    """A conversation that grows: turns of some sampled tokens, and tokens of the environment between them."""
    rng, turns = random.Random(1), list[Turn]()
    for reward, length in zip(rewards, lengths, strict=True):
        past = turns[-1].prompt_ids + turns[-1].action_ids if turns else []
        prompt = [*past, *some_ids(rng, observation, observation)]
        ids = some_ids(rng, length, length)
        turns.append(Turn(prompt, ids, [-2.0] * length, reward=reward))
    return Episode("env", 0, turns=turns, **facts)


def expected_credit(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Equation 16 of GAE as the double sum it is; ``values`` has the one after the last decision too."""
    errors = [reward + gamma * values[i + 1] - values[i] for i, reward in enumerate(rewards)]
    return [sum((gamma * gae_lambda) ** (j - i) * errors[j] for j in range(i, len(errors))) for i in range(len(errors))]


def credited(trainer: Trainer, config: ppo.PpoConfig, episodes: list[Episode], kl_coef: float = 0.0) -> list[Row]:
    return ppo.advantage(config, episodes, trainer, RunningScale(), kl_coef)[0]


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_tokens_of_a_conversation_are_credited_past_what_the_environment_said(ending: str) -> None:
    trainer, config = trainer_with(**PLAIN)
    episode = talk([0.5, -1.0], **{ending: True})
    whole = episode.turns[1].prompt_ids + episode.turns[1].action_ids
    if ending == "truncated":
        episode.final_prompt_ids = [*whole, 9, 4]
    (row,) = credited(trainer, config, [episode])
    everywhere = plain_values(trainer.policy, [*whole, 9, 4])
    sampled = [3, 4, 5, 6, 10, 11]  # places of the sampled tokens: the value before each is read one to its left
    values = [everywhere[at - 1] for at in sampled] + [everywhere[-1] if ending == "truncated" else 0.0]
    assert [at for at, taken in enumerate(row.action_mask, 3) if taken] == sampled
    credit = expected_credit([0.0, 0.0, 0.0, 0.5, 0.0, -1.0], values, 0.9, 0.8)
    targets = [a + v for a, v in zip(credit, values)]
    assert row.advantages == pytest.approx(row.spread(credit), abs=1e-9)
    assert row.value_targets == pytest.approx(row.spread(targets), abs=1e-9)
    assert [turn.advantage for turn in episode.turns] == pytest.approx([sum(credit[:4]) / 4, sum(credit[4:]) / 2])


def test_20_tokens_of_the_environment_do_not_thin_out_a_turns_credit() -> None:
    """Trap: GAE that does not skip them gives 0.215 here instead of 0.599; lambda 1 hides it."""
    trainer, config = trainer_with(lambda model, t: ActorCritic(model, t, False), ppo__whiten=False)
    (row,) = credited(trainer, config, [talk([0.0, 1.0], observation=20, lengths=(3, 10), terminated=True)])
    assert row.advantages[2] == pytest.approx(0.95**10)
    assert row.advantages[-1] == pytest.approx(1.0)


def test_credit_by_turn_has_one_decision_a_reply() -> None:
    trainer, config = trainer_with(ppo__gae_unit="turn", **PLAIN)
    episode = talk([0.5, -1.0], truncated=True)
    whole = episode.turns[1].prompt_ids + episode.turns[1].action_ids
    episode.final_prompt_ids = [*whole, 9]
    (row,) = credited(trainer, config, [episode])
    everywhere = plain_values(trainer.policy, [*whole, 9])
    values = [everywhere[2], everywhere[9], everywhere[-1]]
    first, second = expected_credit([0.5, -1.0], values, 0.9, 0.8)
    assert row.advantages == pytest.approx([first] * 4 + [0.0] * 3 + [second] * 2, abs=1e-9)
    targets = [first + values[0]] * 4 + [0.0] * 3 + [second + values[1]] * 2
    assert row.value_targets == pytest.approx(targets, abs=1e-9)


def test_the_divergence_is_taken_off_the_reward_of_each_token() -> None:
    settings = PLAIN | {"ppo__kl_coef": 0.4, "ppo__kl_in": "reward"}
    trainer, config = trainer_with(lambda model, t: ActorCritic(model, t, False).double(), **settings)
    episode = talk([0.0, 2.0], terminated=True)
    (row,) = credited(trainer, config, [episode], kl_coef=0.4)
    reference = [value for turn in episode.turns for value in turn.reference_logprobs]
    rewards = [0.4 * (value - -2.0) for value in reference]  # -coef (log p - log q)
    rewards[-1] += 2.0
    credit = expected_credit(rewards, [0.0] * 7, 0.9, 0.8)
    assert row.advantages == pytest.approx(row.spread(credit), abs=1e-9)
    trainer, config = trainer_with(**PLAIN | {"ppo__kl_coef": 0.4, "ppo__kl_in": "loss"})
    (with_kl,) = credited(trainer, config, [talk([0.0, 2.0], terminated=True)], kl_coef=0.4)
    trainer, config = trainer_with(**PLAIN)
    (without,) = credited(trainer, config, [talk([0.0, 2.0], terminated=True)])
    assert with_kl.advantages == without.advantages


@pytest.mark.parametrize("credit", ["token", "turn"])
def test_an_episode_that_ended_before_its_first_reply_teaches_nothing(credit: str) -> None:
    trainer, config = trainer_with(ppo__gae_unit=credit, **PLAIN)
    never = [Episode("env", 0, terminated=True), Episode("env", 0, truncated=True, final_prompt_ids=[1, 2])]
    (alone,) = credited(trainer, config, [talk([0.0, 2.0], terminated=True)])
    (beside,) = credited(trainer, config, [never[0], talk([0.0, 2.0], terminated=True), never[1]])
    assert (beside.advantages, beside.value_targets) == (alone.advantages, alone.value_targets)
    rows, metrics = ppo.advantage(config, never, trainer, RunningScale(), 0.0)
    assert (rows, metrics) == ([], {"losses/explained_variance": 0.0, "value/mean": 0.0})


def test_advantages_are_whitened_over_the_steps_tokens_and_rewards_scaled() -> None:
    trainer, config = trainer_with(ppo__scale_rewards=True, ppo__gae_lambda=1.0, ppo__whiten=False)
    episodes = [talk([0.0, 10.0], terminated=True), talk([0.0, -30.0], terminated=True)]
    for row, earned in zip(credited(trainer, config, copy.deepcopy(episodes)), (10.0, -30.0), strict=True):
        goals = [goal for goal, taken in zip(row.value_targets, row.action_mask) if taken]
        assert goals == pytest.approx([earned / 20.0] * 6)  # their deviation is 20
    trainer, config = trainer_with()
    rows = credited(trainer, config, episodes)
    credit = torch.tensor([a for row in rows for a, taken in zip(row.advantages, row.action_mask) if taken])
    assert (credit.mean().item(), credit.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_a_separate_critic_trains_a_backbone_of_its_own_and_not_the_policys() -> None:
    def change(separate: bool, value_coef: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        trainer, config = trainer_with(
            lambda model, t: actor_critic(model, t, separate), ppo__value_coef=value_coef, **ONE_STEP
        )
        parts = trainer.policy.model, trainer.policy.critic
        before = [[p.detach().clone() for p in part.parameters()] for part in parts]
        ppo.update(config, annotated(), trainer, 0, 0.0)
        model, critic = (
            [p.detach() - old for p, old in zip(part.parameters(), olds, strict=True)]
            for part, olds in zip(parts, before, strict=True)
        )
        return model, critic

    model, critic = change(separate=True, value_coef=1.0)
    without, still = change(separate=True, value_coef=0.0)
    shared, head = change(separate=False, value_coef=1.0)
    for ours, theirs in zip(model, without, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert sum(part.norm() for part in critic[:-2]) > 1e-3
    assert not any(part.any() for part in still)
    assert len(head) == 2
    assert not torch.allclose(torch.cat([p.flatten() for p in shared]), torch.cat([p.flatten() for p in without]))
