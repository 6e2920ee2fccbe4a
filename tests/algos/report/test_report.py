"""The report: its numbers are the run's, a hostile reply is only text on it, and no run is too incomplete for it."""

import base64
import hashlib
import json
import math
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report_runs import HOSTILE, Page, episode, evaluation, make_run, metrics, page_of

from algos.maths.statistics import mean_interval
from algos.report.charts import Line, line_chart, line_of, smooth
from algos.report.page import last_line, write_report
from algos.report.templates import TEXT_LIMIT, text
from algos.run_folder.read import pick_games
from llm_gym import cli


def test_every_number_of_the_table_is_the_summarys(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = page_of(run)
    summary = json.loads((run / "summary.json").read_text())
    keys = ("win_rate", "draw_rate", "loss_rate", "invalid_rate", "mean_return")
    parts = [(summary["before"], summary["after"])]
    parts += [(summary["before"]["seats"][seat], summary["after"]["seats"][seat]) for seat in "01"]
    assert [value for value, _ in page.figures] == [result[key] for pair in parts for key in keys for result in pair]
    assert [shown for _, shown in page.figures][:2] == ["25.0%", "90.0%"]
    assert "Games won: 25.0% [24.0%, 26.0%] → 90.0% [89.0%, 91.0%]" in page.text
    assert "win 90.0% [89.0%, 91.0%], draw 2.0% [1.0%, 3.0%]" in last_line("after", summary["after"])


def test_a_hostile_reply_is_only_text(tmp_path: Path) -> None:
    lost = episode("loss", "A" * 1_000_000, rules=HOSTILE, player=HOSTILE, reward_terms={HOSTILE: HOSTILE, "win": 1.0})
    run = make_run(tmp_path / "run", games={1: [episode(HOSTILE)], 3: [episode("win", HOSTILE), lost]})
    config = (run / "config.yaml").read_text().replace("small", '"</title><script>1</script>"')
    (run / "config.yaml").write_text(config)
    page = page_of(run)
    assert "</pre><script>alert(1)</script><img src=x onerror=alert(1)>U+001B[31mU+0000 x 2U+D800U+202Eabc" in page.text
    assert "U+200F &amp; $title" in page.text
    assert not page.tags & {"img", "iframe", "object", "a", "base"}
    assert [attributes for attributes, _ in page.scripts] == [{"type": "application/json", "id": "episodes"}, {}]
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert f"and {1_000_000 - TEXT_LIMIT:,} more characters" in page.text
    written = (run / "report.html").read_bytes()
    assert len(written) < 110_000
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]|\u202e|\u200f", written.decode())


def test_the_page_asks_nothing_of_any_other_place_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", games={1: [episode("win")]})
    page = page_of(run)
    html = (run / "report.html").read_text()
    assert not [value for name, value in page.attributes if name in ("src", "srcset", "action", "data", "poster")]
    assert not re.search(r"https?:|@import|url\(", html)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    style = re.findall(r"<style>(.*?)</style>", html, re.S)[0]
    for content, kind in ((page.scripts[1][1], "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed.pop(kind) == f"'sha256-{digest}'"
    nothing = ("default-src", "base-uri", "form-action")
    assert allowed == {"img-src": "data:"} | dict.fromkeys(nothing, "'none'")


@given(st.text(st.characters(codec=None), max_size=60))
@example("\ud83d\ude00\r\n\x85\u2028\ufeff<mark>U+0041</mark>&lt;")
def test_text_says_which_string_it_was(string: str) -> None:
    html = text(string)
    html.encode()  # no surrogate is left
    marks: list[str] = []

    def back(match: re.Match[str]) -> str:
        marks.append(chr(int(match[1], 16)) * int((match[2] or "1").replace(",", "")))
        return "\x00"  # never in the page's own text

    unmarked = re.sub(r"<mark>U\+([0-9A-F]+)(?: x ([\d,]+))?</mark>", back, html)
    assert "<" not in unmarked
    plain = Page(f"<p>{unmarked}</p>").text.split("\x00")
    assert "".join(part + mark for part, mark in zip(plain, [*marks, ""])) == string


def test_an_unfinished_run_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", after=None, games={1: [episode("win")], 2: []})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward/me')
    with (run / "episodes/step_000002.jsonl").open("a") as file:
        file.write('{"env": "llmgym/Tic')
    page = page_of(run)
    assert "GRPO on llmgym/TicTacToe-v0" in page.text
    assert "This run has not finished" in page.text
    assert "reward/mean0.01 → 0.03" in page.text
    assert "Step 1: won" in page.text
    assert page.figures == []


@pytest.mark.parametrize("config", ["", "run: [", "- 1", "run: 3\nsft: {lr: 1}"])
def test_a_run_without_a_step_has_a_page(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    page = page_of(tmp_path)
    assert "No step has been logged yet." in page.text
    assert "No game has been written yet." in page.text


def test_other_trainers_and_missing_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=0)
    rows = [
        {"step": 1, "losses/sft": 2.5},
        {"step": 2, "losses/sft": math.nan},
        {"step": 3, "losses/sft": 0.5, "own": 1},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"algorithm": "sft", "before": {"episodes": 0}, "after": None}
    (run / "summary.json").write_text(json.dumps(summary))
    page = page_of(run)
    assert "SFT on" in page.text
    assert "losses/sft2.5 → 0.5" in page.text
    assert "Before and after" not in page.text
    assert "reward/mean" not in page.text


def test_a_game_for_one_is_solved_or_failed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", games={3: [episode("failed"), episode("solved")]})
    rows = [metrics(step) | {"outcome/win": 0.0, "outcome/loss": 0.0, "outcome/failed": 1.0} for step in (1, 2)]
    rows[1] |= {"outcome/solved": 0.7, "outcome/failed": 0.3}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(run)
    assert "Games solved: 25.0%" in page.text
    assert "solved 0.0% → 70.0%" in page.text  # no line of step 1 says that none was solved
    assert "drawn" not in page.text
    assert [game.episode["outcome"] for game in pick_games(run)] == ["solved", "failed"]


def test_whatever_an_evaluation_counts_is_shown(tmp_path: Path) -> None:
    more = {"pass_at_4": 0.5, "pass_at_4_low": 0.4, "pass_at_4_high": 0.6, "nash_conv": 0.125, "success_rate": 0.9}
    runs = [make_run(tmp_path / f"{seed}", seed=seed) for seed in (0, 1)]
    for run, kept in zip(runs, (0.25, 0.75), strict=True):
        summary = json.loads((run / "summary.json").read_text())
        summary["after"] |= more | {"rules_kept_rates": [1.0, kept], "task_ids": [1, 2]}
        summary["after"]["extra"] = {"mbpp_eval": evaluation(0.3, seats=False) | {"problems": 90}}
        (run / "summary.json").write_text(json.dumps(summary))
    text = page_of(runs[0]).text
    assert "pass@4not known50.0% [40.0%, 60.0%]" in text
    assert "nash convnot known0.125" in text
    assert "mbpp_eval 100 games" in text
    assert "problemsnot known90" in text
    assert "task ids" not in text
    assert text.index("1 a number-25.0%") < text.index("0 at least 5 characters-100.0%")
    assert "1 a number-50.0%" in page_of(*runs).text  # the mean over the runs


def test_the_rules_of_a_run_without_evaluations_are_those_of_its_episodes(tmp_path: Path) -> None:
    early = [episode("failed", info={"rules_shown": 2, "rules_failed": failed}) for failed in ([0, 1], [1])]
    late = [episode("failed", info=info) for info in ({"rules_shown": 3, "rules_failed": [2]}, {"rules_shown": "x"})]
    run = make_run(tmp_path / "run", after=None, games={1: early, 3: late})
    text = page_of(run).text
    assert "0 at least 5 characters50.0%100.0%" in text
    assert "1 a number0.0%100.0%" in text
    assert text.index("2 an uppercase letter-0.0%") < text.index("0 at least")


def test_metrics_of_one_family_share_a_chart_and_unknown_ones_are_folded_away(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=0)
    row = {"baseline/Kuhn/0": 0.5, "baseline/Kuhn/1": -0.5, "time/collect_s": 1.0, "time/update_s": 2.0, "new/one": 3.0}
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1} | row) + "\n")
    text = page_of(run).text
    shown, _, folded = text.partition("All other metrics")
    assert "Baseline baseline/Kuhn/0 0.51 -0.5" in shown
    assert "Seconds of a step time/collect_s 1update_s 2" in shown
    assert "new/one3" in folded
    assert "new/one" not in shown


def test_three_games_are_chosen_by_rule(tmp_path: Path) -> None:
    last = [episode("invalid"), episode("draw"), episode("win"), episode("loss"), episode("win")]
    run = make_run(tmp_path / "a", games={1: [episode("loss")] * 2, 20: [episode("win")], 100: last})
    assert [(game.step, game.line) for game in pick_games(run)] == [(100, 3), (100, 4), (1, 1)]
    run = make_run(tmp_path / "b", games={1: [episode("invalid"), episode("draw"), episode("win")]})
    assert [(game.step, game.line) for game in pick_games(run)] == [(1, 3), (1, 2), (1, 1)]
    run = make_run(tmp_path / "c", games={1: [episode("something else")]})
    assert [(game.step, game.line) for game in pick_games(run)] == [(1, 1)]


def test_a_game_reads_as_a_conversation(tmp_path: Path) -> None:
    turns = [episode("win")["turns"][0] | {"observation": f"Board {i}." + "x" * 3000} for i in range(60)]
    run = make_run(tmp_path / "run", games={1: [episode("win", turns=turns, advantage=-0.5)]})
    page = page_of(run)
    order = [
        "Three in a row.",
        "Board 0.",
        "Reply 1: ok, reward +1, advantage -0.5, 3 tokens",
        r"\boxed{4}",
        "Board 1.",
    ]
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)
    assert re.search(r"\d+ more replies are left out here", page.text)
    assert "The end." in page.text


def test_several_runs_are_one_mean_with_students_interval(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{seed}", after=win, seed=seed) for seed, win in enumerate((0.80, 0.85, 0.90))]
    page = page_of(*runs)
    # By hand: deviation 0.05, t(2) 4.303: 0.85 +- 4.303 * 0.05 / sqrt(3) = 0.85 +- 0.1242.
    assert "25.0% [24.0%, 26.0%] → 85.0% [72.6%, 97.4%]" in page.text
    assert "Runs3" in page.text
    assert "Seed0, 1, 2" in page.text
    assert "differ in more than their seed" not in page.text
    assert ("class", "band good") in page.attributes
    assert [win for win, shown in page.figures if shown in ("80.0%", "85.0%", "90.0%")] == [
        pytest.approx(0.85), 0.80, 0.85, 0.90]  # fmt: skip
    bands = [value for name, value in page.attributes if name == "class" and str(value).startswith("band")]
    assert bands
    other = make_run(tmp_path / "other", opponent="minimax")
    assert "differ in more than their seed: env.opponent." in page_of(runs[0], other).text


@pytest.mark.parametrize(("runs", "t"), [(2, 12.706), (6, 2.571), (12, 2.201), (31, 2.042), (101, 1.984)])
def test_students_t_is_the_published_one(runs: int, t: float) -> None:
    values = [float(i) for i in range(runs)]
    mean, low, high = mean_interval(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (runs - 1))
    assert (high - low) / 2 * math.sqrt(runs) / deviation == pytest.approx(t, abs=0.003)
    assert mean_interval([0.5]) == (0.5, 0.5, 0.5)


def test_curves_are_drawn_where_their_values_are() -> None:
    curve = {float(step): 0.25 + 0.5 * (step % 2) for step in range(1, 101)}
    smoothed = smooth(curve)
    for step in (1.0, 2.0, 50.0, 100.0):
        near = [value for other, value in curve.items() if abs(other - step) <= 4]
        assert smoothed[step] == pytest.approx(sum(near) / len(near))
    line = line_of("x", "good", [curve])
    assert (line.points, line.faint) == (sorted(smoothed.items()), [sorted(curve.items())])

    svg = ElementTree.fromstring(line_chart("A & B", [Line("x", "good", [(0, 0.0), (50, 0.5), (100, 1.0)])], True))
    (drawn,) = [e for e in svg.iter("polyline") if e.get("class") == "line good"]
    (x0, y0), (x1, y1), (x2, y2) = ([float(n) for n in point.split(",")] for point in drawn.get("points", "").split())
    assert (x1, y1) == (pytest.approx((x0 + x2) / 2, abs=0.1), pytest.approx((y0 + y2) / 2, abs=0.1))
    labels = {e.text: float(e.get("y", 0)) - 4 for e in svg.iter("text")}
    assert (labels["0%"], labels["100%"]) == (pytest.approx(y0, abs=0.1), pytest.approx(y2, abs=0.1))
    assert y2 < y0  # more is higher up
    assert svg.get("aria-label") == "A & B"
    assert line_chart("", [Line("x", "good", [(1, 0.0), (2, 0.5), (3, 1.0)])], True).count(">2</text>") == 1


@pytest.mark.parametrize("values", [[0.0], [1e-300, 2e-300], [-3e98, 3e98], [1e15, 1e15 + 1], [5.0] * 3, [1e-9, 2e-9]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    svg = ElementTree.fromstring(line_chart("any", [line_of("x", "good", [dict(enumerate(values))])]))
    (drawn,) = svg.iter("polyline")
    assert all(-1000 < float(n) < 1000 for n in re.split(r"[ ,]", drawn.get("points", "")))
    assert len(list(svg.iter("text"))) < 20


def test_a_run_of_200_steps_fits_in_a_megabyte(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=200, games={200: [episode("win"), episode("loss")]})
    rows = [metrics(step) | {f"more/{i}": math.sin(step * i) for i in range(30)} for step in range(1, 201)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report([run], run / "report.html")
    assert (run / "report.html").stat().st_size < 1_000_000


def test_the_page_tells_how_to_repeat_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run")
    page = page_of(run)
    line = (
        next(line for line in page.text.splitlines() if "algos/grpo.py" in line)
        .split("Repeat it")[1]
        .split("Settings")[0]
    )
    assert shlex.split(line) == [
        *("python", "algos/grpo.py", "--config", f"{run}/config.yaml", "--run.dir", f"{run}-again")
    ]
    assert "  opponent: random  # default" in page.text


def test_the_command_writes_a_page_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    cli.main(["report", str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    cli.main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")])
    assert "Runs2" in Page((tmp_path / "both.html").read_text()).text


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    wrong = ([str(tmp_path)], [str(run), str(tmp_path / "none")], [str(run), "--out", str(tmp_path / "no/where.html")])
    for argv in wrong:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["report", *argv])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert "holds no run" in line or "cannot be written" in line
