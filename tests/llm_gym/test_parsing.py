"""The parser: which part of a reply is the action, for every format and for any string at all."""

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llm_gym.parsing import FORMATS, extract_action, format_action, match_action, strip_think

REPLIES = {
    "boxed": [
        (r"\boxed{4}", "4"),
        (r"so $\boxed{ e2 e4 }$.", "e2 e4"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{1} or \boxed{a{b}c}", "a{b}c"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{{3}}", "{3}"),
        (r"\boxed{\text{raise}}", "raise"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b}c} {", "a{b}c"),
        (r"} { \boxed{4}", "4"),
        (r"{ \boxed{4} {\boxed{5}", "5"),
        (r"\boxed{1}, no: \boxed{2", "1"),
        (r"\boxed{1}\boxed{}", ""),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed 4", None),
        (r"boxed{4}", None),
        (r"\boxed{", None),
        ("4", None),
        ("", None),
    ],
    "bracket": [
        ("[4]", "4"),
        ("[1] then [ 2 ]", "2"),
        ("[[3]]", "3"),
        ("[a [b] c]", "b"),
        ("[1] [2", "1"),
        ("[]", ""),
        ("[", None),
        ("]4[", None),
    ],
    "tag": [
        ("<answer>4</answer>", "4"),
        ("<answer>1</answer> <action> 2 </action>", "2"),
        ("<answer><answer>3</answer>", "3"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer>1</answer> 2</answer>", "1"),
        ("<answer>a < b</answer>", "a < b"),
        ("<answer>4</action>", None),
        ("</answer>4<answer>", None),
    ],
    "fence": [
        ("```python\nx = 1\n```", "x = 1"),
        ("```py\na\n```\nor\n```python3\nb\n```", "b"),
        ("```python\na\n```\nprints\n```\n7\n```", "a"),
        ("```\na\n```\n```text\nb\n```", "b"),
        ("```python\n    return 1\n```", "    return 1"),
        ("```python\nx = 1", "x = 1"),
        ("```\nnever closed\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n``` That is it\nDone.", "x = 1"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1"),
        ("x = '```'", "x = '```'"),
        ("```python\n```", ""),
        ("print(1)\n", "print(1)"),
        ("", ""),
    ],
    "plain": [
        ("  Hunter2! \n", "Hunter2!"),
        ("two\nlines", "two\nlines"),
        (r"\boxed{4}", r"\boxed{4}"),
        ("", ""),
    ],
}

THOUGHTS = [
    ("<think>no</think>yes", "yes"),
    ("yes<think>no", "yes"),
    ("no</think>yes", "yes"),
    ("<think>no</think>yes<think>no</think> sir", "yes sir"),
    ("<think>no<think>no</think>no</think>yes", "yes"),
    ("<think>no<think>no</think>no", ""),
    ("<think>no</think>no</think>yes", "yes"),
    ("</think></think>yes", "yes"),
    ("no<think>no</think>no</think>yes", "yes"),
    ("<think></think>", ""),
    ("think> yes < think>", "think> yes < think>"),
]

# What a scripted player may send in each format: anything but the format's own marks.
OWN_MARKS = {"boxed": r"[{}\\]", "bracket": r"[\[\]]", "tag": r"</?(answer|action)>", "fence": "```", "plain": "(?!)"}

HOSTILE = [
    "\\boxed{" * 150_000,
    "\\boxed{" * 70_000 + "}" * 70_000,
    "\\boxed{" + "\\text{" * 150_000 + "}}",
    "\\boxed{{}" + "\\text{a}" * 100_000 + "}",
    "{" * 1_000_000,
    "}" * 1_000_000,
    "[" * 1_000_000,
    "[" * 500_000 + "]" * 500_000,
    "<think>" * 100_000,
    "</think>" * 100_000,
    "<think>" * 60_000 + "</think>" * 60_000,
    "<answer>" * 100_000,
    "<answer>a</answer>" * 50_000,
    "`" * 1_000_000,
    "```\n" * 250_000,
    "```python\n```" * 80_000,
    ("\t" * 1000 + "x") * 1000,
    ("```" + " " * 1000 + "\n") * 1000,
    "\n\t" * 500_000,
    "```" + "w" * 1_000_000,
]


@pytest.mark.parametrize(
    ("action_format", "reply", "action"),
    [(action_format, reply, action) for action_format, table in REPLIES.items() for reply, action in table],
)
def test_reads_the_last_marked_action(action_format: str, reply: str, action: str | None) -> None:
    assert extract_action(reply, action_format) == action


@pytest.mark.parametrize(("reply", "spoken"), THOUGHTS)
def test_drops_all_thinking(reply: str, spoken: str) -> None:
    assert strip_think(reply) == spoken


@given(thought=st.text(), mark=st.sampled_from(["</think>", ""]))
@pytest.mark.parametrize("action_format", FORMATS)
def test_an_action_in_the_thinking_is_not_an_action(action_format: str, thought: str, mark: str) -> None:
    assume("think>" not in thought)
    reply = f"<think>{thought}{format_action('7', action_format)}\n{mark}"
    # Code and plain text need no mark, so nothing at all is an empty action there.
    assert extract_action(reply, action_format) in (None, "")


@given(action=st.text(min_size=1))
@example("²")
@example("\x00\ud800")
@example("a  b")
@example("100% %s %d")
@pytest.mark.parametrize("action_format", FORMATS)
def test_a_formatted_action_comes_back(action_format: str, action: str) -> None:
    action = action.strip()
    assume(action and not re.search(OWN_MARKS[action_format] + "|</?think>", action))
    assert extract_action(format_action(action, action_format), action_format) == action


@given(before=st.text(), first=st.sampled_from("12345"), between=st.text(), last=st.sampled_from("6789"))
@pytest.mark.parametrize("action_format", ["boxed", "bracket", "tag", "fence"])
def test_the_last_of_several_wins(action_format: str, before: str, first: str, between: str, last: str) -> None:
    assume(not re.search(r"[{}\\\[\]`<>]", before + between))
    reply = f"{before}\n{format_action(first, action_format)}\n{between}\n{format_action(last, action_format)}"
    assert extract_action(reply, action_format) == last


MARKS = ["\\boxed{", "\\text{", "{", "}", "[", "]", "<think>", "</think>", "<answer>", "</answer>", "<action>"]
MARKS += ["</action>", "```", "```python", "\n", "\r", "\x00", "\ud800", "\u200f", " ", "4", "²"]


@given(reply=st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join)))
@pytest.mark.parametrize("action_format", FORMATS)
def test_any_string_gives_a_part_of_itself_or_nothing(action_format: str, reply: str) -> None:
    action = extract_action(reply, action_format)
    if action is None:
        assert action_format in ("boxed", "bracket", "tag")
    else:
        assert action == action.strip() or action_format == "fence"
        spoken = re.sub(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}", r"\1", strip_think(reply))
        assert action in spoken or action in strip_think(reply)


@given(reply=st.lists(st.sampled_from(["\\boxed{", "\\boxed{1}", "{", "{2}", "}", "3"])).map("".join))
@settings(max_examples=500)
def test_boxes_are_read_as_a_brace_counter_reads_them(reply: str) -> None:
    """Against the definition: of all boxes that close, the one that opens last."""
    found = None
    for start in [match.end() for match in re.finditer(r"\\boxed\{", reply)]:
        depth = 1
        for at in range(start, len(reply)):
            depth += {"{": 1, "}": -1}.get(reply[at], 0)
            if depth == 0:
                found = reply[start:at].strip()
                break
    assert extract_action(reply, "boxed") == found


@pytest.mark.parametrize("reply", HOSTILE, ids=lambda reply: repr(reply[:12]))
def test_a_megabyte_made_to_confuse_is_read_like_any_other(reply: str) -> None:
    """A parser that is quadratic in the length, or that recurses, would not come back from these."""
    for action_format in FORMATS:
        action = extract_action(reply + format_action("4", action_format), action_format)
        closes_nothing = "<think>" not in reply or reply.count("<think>") == reply.count("</think>")
        if not closes_nothing:
            assert action in (None, "")
        elif action_format in ("boxed", "bracket", "tag"):
            assert action == "4"
        else:
            assert action is not None


@pytest.mark.parametrize(
    ("candidate", "legal", "meant"),
    [
        ("Fold", ["fold", "call"], "fold"),
        ("x ( 0 , 1 )", ["x(0,1)", "x(1,0)"], "x(0,1)"),
        ("STRASSE", ["straße"], "straße"),
        ("a", ["A", "a "], None),
        ("raise", ["fold", "call"], None),
        ("", ["fold"], None),
        ("fold", [], None),
        ("fold", None, None),
        ("fold" + " " * 2000, ["fold"], None),
    ],
)
def test_an_action_is_meant_only_where_one_fits(candidate: str, legal: list[str] | None, meant: str | None) -> None:
    assert match_action(candidate, legal) == meant
