"""The browser of episodes: what is written of an episode, what of it is in the page, and what a browser makes of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, episode, make_run, page_of

from algos.data.episodes import Episode, Turn
from algos.model.chat import Chat
from algos.report import episodes as report_episodes
from algos.report.episodes import quotas
from algos.report.page import write_report
from algos.report.templates import TEXT_LIMIT
from algos.run_folder.write import as_json, as_text
from algos.warm_start.tiny import train_tokenizer
from llm_gym import cli

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def data_of(*runs: Path) -> dict[str, Any]:
    """The page's data with names and strings in place of numbers."""
    ((attributes, raw), _) = page_of(*runs).scripts
    assert attributes["id"] == "episodes"
    assert not re.search(r"[<>&]|[^\x20-\x7e]", raw)
    data: dict[str, Any] = json.loads(raw)
    strings, fields = data["strings"], data["fields"]
    for i, values in enumerate(data["episodes"]):
        shown = data["episodes"][i] = dict(zip(fields["episode"], values, strict=True))
        for name in ("env", "seed", "seat", "outcome", "rules", "end"):
            shown[name] = strings[shown[name]]
        shown["turns"] = [dict(zip(fields["turn"], turn, strict=True)) for turn in shown["turns"]]
        for turn in shown["turns"]:
            turn["reply"] = None if turn["reply"] is None else strings[turn["reply"]]
            turn["observation"], turn["parse"] = strings[turn["observation"]], strings[turn["parse"]]
            turn["tokens"] = [strings[place] for place in turn["tokens"]]
    return data


def turn(reply: str, tokens: list[str], **more: Any) -> dict[str, Any]:
    logprobs = [math.log(0.25)] * len(tokens)
    return episode("win")["turns"][0] | {"reply": reply, "tokens": tokens, "logprobs": logprobs} | more


def test_what_is_written_is_what_was_played() -> None:
    first = Turn([1], [5, 6], [-0.123456, -2.0], "Board.", "hi", reward=0.5, advantages=[1.0, 2.0])
    second = Turn([1], [7], [math.nan], "\ud800", "\u202e", "malformed", -1.0, advantages=[-0.5], stop_reason="length")
    info = {"reward_terms": {"game": -0.5}, "rules_shown": 3, "legal_actions": ["4"], "own": object}
    played = Episode("X-v0", 7, 2, 1, [first, second], True, False, "loss", "Rules.", "End.", info)
    written = json.loads(as_json(played, lambda ids: [f"<{i}>" for i in ids]))
    one, two = written.pop("turns")
    assert one["logprobs"] == [-0.1235, -2.0]
    assert one["tokens"] == ["<5>", "<6>"]
    assert (one["advantage"], one["reward"], one["action_ids"], one["reply"]) == (1.5, 0.5, [5, 6], "hi")
    assert math.isnan(two["logprobs"][0])
    names = ("observation", "reply", "parse", "stop_reason")
    assert [two[name] for name in names] == ["\ud800", "\u202e", "malformed", "length"]
    assert written.pop("info") == {"rules_shown": 3, "own": str(object)}
    expected = {"env": "X-v0", "seed": 7, "group": 2, "player": 1, "outcome": "loss", "return": -0.5}
    expected |= {"reward_terms": {"game": -0.5}, "advantage": 0.5, "rules": "Rules.", "last_observation": "End."}
    assert written == expected
    assert "[reply, malformed, advantage -0.500]\n\u202e" in as_text(played)
    assert json.loads(as_json(Episode("X-v0", 7), list))["advantage"] == 0.0


def test_pieces_of_a_reply_are_its_tokens() -> None:
    chat = Chat(train_tokenizer([r"\boxed{4} \boxed{4} \boxed{4}"]))
    ids = chat.tokenizer.encode(r"\boxed{4} é", add_special_tokens=False)
    pieces = chat.pieces([*ids, chat.tokenizer.eos_token_id, 10**6])
    assert len(pieces) == len(ids) + 2
    assert "".join(pieces[: len(ids)]) == r"\boxed{4} \xc3\xa9"  # two tokens, neither a character of its own
    assert pieces[-2:] == [chat.tokenizer.eos_token, "<1000000>"]


def test_the_data_tell_what_the_episode_file_tells(tmp_path: Path) -> None:
    spelt = turn(r"\boxed{4}", [r"\boxed{", "4", "}", "<end>"], advantage=0.75, stop_reason="length")
    split = turn("é", ["\\xc3", "\\xa9", "<end>"], logprobs=[math.nan, 0.0, 0.0])
    info = {"reward_terms": {"a": 1.0, "b": "x"}, "info": {"n": 3}}
    old = episode("draw")  # written before there were tokens
    run = make_run(tmp_path / "run", games={2: [episode("win", turns=[spelt, split], **info), old]})
    data = data_of(run)
    new, before = data["episodes"]
    first, second = new["turns"]
    assert (first["tokens"], first["p"], first["reply"]) == ([r"\boxed{", "4", "}", "<end>"], [250] * 4, None)
    assert (first["advantage"], first["reward"], first["cut"], first["count"], first["left"]) == (0.75, 1.0, 1, 4, 0)
    assert (second["reply"], second["p"]) == ("é", [])
    assert [new[name] for name in ("run", "step", "line", "seat", "return")] == [0, 2, 1, "0", 1.0]
    assert [(data["strings"][name], value) for name, value in new["info"]] == [("n", 3)]
    assert [data["strings"][name] for name, _ in new["terms"]] == ["a", "b"]
    assert (before["turns"][0]["reply"], before["turns"][0]["tokens"], before["turns"][0]["count"]) == (
        r"\boxed{4}",
        [],
        3,
    )
    assert data["strings"].count("You are X.") == 1
    assert data["runs"] == [{"name": str(run), "context": None}]


def test_a_long_reply_is_cut_with_a_count_of_what_is_left_out(tmp_path: Path) -> None:
    spelt, not_spelt = turn("ab" * 500_000, ["ab" * 500] * 1000), turn("x" * 1_000_000, ["?"] * 9000)
    many = episode("win", turns=[turn("y" * 4000, [])] * 40)
    data = data_of(make_run(tmp_path / "run", games={1: [episode("win", turns=[spelt, not_spelt]), many]}))
    one, two = data["episodes"][0]["turns"]
    assert (one["reply"], len(one["tokens"]), one["left"]) == (None, 4, 1_000_000 - TEXT_LIMIT)
    assert two["reply"] == ["x" * TEXT_LIMIT, 1_000_000 - TEXT_LIMIT]
    assert (len(two["tokens"]), two["count"]) == (TEXT_LIMIT, 9000)
    assert len(data["episodes"][1]["turns"]) + data["episodes"][1]["more_turns"] == 40
    assert data["episodes"][1]["more_turns"] > 20


@pytest.mark.parametrize(
    ("counts", "most", "taken"),
    [
        ([3, 3], 6, [3, 3]),
        ([4, 4, 4, 4], 8, [1, 1, 1, 4]),  # the newest whole, what is left of eight evenly over the others
        ([100, 100], 10, [5, 5]),
        ([9] * 6, 3, [0, 1, 0, 1, 0, 1]),
        ([5, 5, 5], 0, [0, 0, 0]),
        ([], 5, []),
    ],
)
def test_newest_steps_are_taken_whole_and_earlier_ones_evenly(counts: list[int], most: int, taken: list[int]) -> None:
    assert quotas(counts, most) == taken


def test_fewer_episodes_are_taken_where_more_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = [episode("win", turns=[turn(f"{i} {j} " * 100, []) for j in range(3)]) for i in range(60)]
    run = make_run(tmp_path / "run", games={1: played[:30], 2: played[30:]})
    assert len(data_of(run)["episodes"]) == 60
    monkeypatch.setattr(report_episodes, "SIZE_LIMIT", 30_000)
    data = data_of(run)
    assert 10 < len(data["episodes"]) < 60
    assert {shown["step"] for shown in data["episodes"]} == {1, 2}
    assert data["total"] == 60
    cli.main(["report", str(run), "--episodes", "4"])
    assert (run / "report.html").read_text().count('"total":60') == 1
    with pytest.raises(SystemExit):
        cli.main(["report", str(run), "--episodes", "-1"])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_a_hostile_episode_as_text(tmp_path: Path) -> None:
    attack = "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">" + HOSTILE
    said = [turn(attack, [attack, "<end>"], parse=attack, observation=attack), turn("A" * 1_000_000, [])]
    hostile = episode(attack, turns=said, rules=attack, env=attack, player=attack, info={attack: attack})
    run = make_run(tmp_path / "run", games={1: [episode("constructor"), episode("toString")], 2: [hostile]})
    write_report([run], run / "report.html")
    command = [
        str(BROWSER),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    found = subprocess.run(
        [*command, "--dump-dom", (run / "report.html").as_uri()], capture_output=True, timeout=120, check=True
    )
    dom = found.stdout.decode()
    browser = dom[dom.index('<section id="browser">') : dom.index("Repeat it")]
    assert '<section id="games" hidden' in dom  # the script ran, and so the browser stands in the place of the games
    assert "<title>GRPO on llmgym/TicTacToe-v0</title>" in dom
    assert not re.search(r"<(script|img|form|iframe) ", browser.replace('<form id="filter">', ""))
    assert "&lt;/script&gt;&lt;script&gt;document.title" in browser
    assert "<mark>U+001B</mark>[31m<mark>U+0000 x 2</mark><mark>U+D800</mark><mark>U+202E</mark>abc" in browser
    assert f"... and {1_000_000 - TEXT_LIMIT:,} more characters, left out here" in browser
    assert 'title="probability 0.25"' in browser
    assert "AAAA" * 1000 in browser
    assert "AAAA" * 1001 not in browser
