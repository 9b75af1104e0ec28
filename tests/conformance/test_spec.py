"""`SPEC.md` against the code and the vectors, both ways."""

import json
import re
from pathlib import Path

import pytest

import dataplane_protocol
from dataplane_protocol import (
    ERRORS_BY_CODE,
    INGEST_FD,
    SERVE_FD,
    TRANSITIONS,
    BackendState,
    IngestOutcome,
    ObjectState,
    Operation,
    Side,
    _limits,
)


@pytest.fixture(scope="module")
def spec(protocol_folder):
    return (protocol_folder / "SPEC.md").read_text(encoding="utf-8")


def section(spec, number):
    """Give the text of a section, without that of its subsections' siblings."""
    depth = "#" * (2 + number.count("."))
    start = re.search(rf"^{depth} {re.escape(number)}\.? .*$", spec, re.MULTILINE)
    assert start, number
    text = spec[start.end() :]
    following = re.search(rf"^#{{2,{len(depth)}}} ", text, re.MULTILINE)
    return text[: following.start()] if following else text


def rows(text):
    """Give the cells of the body of each table in a text."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def test_every_hex_block_is_the_vector_that_it_is_named_after(spec, frames):
    vectors = {vector.name: vector.frame.hex() for group in frames.values() for vector in group}
    blocks = re.findall(r"^```hex (.+)\n((?:.*\n)*?)```$", spec, re.MULTILINE)
    assert len(blocks) == spec.count("```hex") > 20
    for name, text in blocks:
        assert "".join(text.split()) == vectors[name], name


def transcript(case):
    """Give the lines that a block marked `call` has for a case of one connection."""
    ((*steps,),) = case.connections
    for step in steps:
        side = "C" if step.kind.startswith("client") else "S"
        frame = step.control if step.pattern is None else step.pattern.example
        if frame is not None:
            descriptor = "" if step.fd is None else f" + descriptor, size {len(step.fd)}"
            yield f"{side} {json.dumps(frame)}{descriptor}"
        elif step.kind.endswith("_data"):
            shown = f": {step.data.hex()}" if len(step.data) <= 32 else ""
            yield f"{side} data, size {len(step.data)}{shown}"
        else:
            assert step.kind.endswith("_close")
            yield f"{side} closes"


def test_every_call_block_is_the_conversation_that_it_is_named_after(spec, cases):
    by_name = {case.name: case for case in cases}
    blocks = re.findall(r"^```call (.+)\n((?:.*\n)*?)```$", spec, re.MULTILINE)
    assert len(blocks) == spec.count("```call") > 3
    for name, text in blocks:
        assert text.split() == " ".join(transcript(by_name[name])).split(), name


def rules(spec):
    """Give each numbered rule with its text, up to the next rule or heading."""
    found = re.findall(
        r"^\*\*(\d+(?:\.\d+)?-\d+)\*\* ((?:.*\n)*?)(?=\*\*\d|#|\Z)", spec, re.MULTILINE
    )
    assert len(dict(found)) == len(found) > 100
    return dict(found)


def test_rules_are_numbered_without_gaps_within_their_section(spec):
    for heading, text in sections(spec):
        numbers = re.findall(r"^\*\*([\d.]+-\d+)\*\*", text, re.MULTILINE)
        assert numbers == [f"{heading}-{index + 1}" for index in range(len(numbers))]


def sections(spec):
    """Give the number of each section, and its text without that of its subsections."""
    parts = re.split(r"^##+ (\d+(?:\.\d+)?)\.? .*$", spec, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_every_paragraph_that_binds_has_a_number(spec):
    # Section 1 explains the words; tables and lists belong to the paragraph above them.
    _, *bound = sections(spec)
    for _, text in bound:
        numbered = False
        for paragraph in re.sub(r"```(?:.|\n)*?```", "", text).split("\n\n"):
            if not paragraph.strip().startswith(("- ", "|")):
                numbered = bool(re.match(r"\*\*[\d.]+-\d+\*\*", paragraph.strip()))
            binds = re.search(r"\b(MUST|SHOULD|MAY)\b", paragraph)
            assert numbered or not binds, paragraph


def test_every_rule_is_shown_by_a_vector_or_listed_with_another_way_to_see_it(
    spec, frames, cases, protocol_folder
):
    cited = {rule for group in frames.values() for vector in group for rule in vector.rules}
    cited |= {rule for case in cases for rule in case.rules}
    readme = (protocol_folder / "vectors" / "README.md").read_text(encoding="utf-8")
    unshown = readme.partition("## Rules that no vector shows")[2]
    listed = [rule for numbers, _ in list(rows(unshown))[1:] for rule in numbers.split(", ")]
    assert len(set(listed)) == len(listed)
    assert cited <= set(rules(spec))
    assert cited.isdisjoint(listed)
    assert cited | set(listed) == set(rules(spec))


def test_every_limit_of_the_code_is_in_section_9_with_its_value(spec):
    stated = {name: float(value) for name, value, _, _ in list(rows(section(spec, "9")))[1:]}
    assert stated == {name: float(value) for name, value in vars(_limits).items() if name.isupper()}


def test_every_code_is_in_section_8_with_its_advice(spec):
    stated = {code: retry for code, _, retry, _, _ in list(rows(section(spec, "8.1")))[1:]}
    assert stated == {
        code: "yes" if kind.default_retry else "no" for code, kind in ERRORS_BY_CODE.items()
    }


def test_every_operation_has_its_part_of_section_7(spec):
    headings = re.findall(r"^### 7\.\d `(.*)`$", spec, re.MULTILINE)
    assert headings == [str(operation) for operation in Operation]
    assert headings == list(errors_of_operations(spec))


def errors_of_operations(spec):
    """Give the codes that each operation has beside those of every one."""
    body = spec.partition("## 7. Operations")[2].partition("**7-1**")[0]
    table = list(rows(body))[1:]
    return {op: set(re.findall(r"[a-z_]+", codes)) for op, _, _, codes in table}


def test_the_errors_of_an_operation_are_the_same_in_the_table_and_in_its_part(spec):
    for index, (op, codes) in enumerate(errors_of_operations(spec).items()):
        (line,) = re.findall(r"^Errors: ((?:.+\n)+)", section(spec, f"7.{index + 1}"), re.MULTILINE)
        assert set(re.findall(r"`([a-z_]+)`", line)) == codes, op
        assert codes <= set(ERRORS_BY_CODE)
        assert " ".join(line.split()).endswith("those of every operation.")


def test_an_operation_answers_with_no_other_code_than_its_own(spec, cases):
    common = set(re.findall(r"`([a-z_]+)`", rules(spec)["7-1"])) | {"protocol"}
    allowed = errors_of_operations(spec)
    for case in cases:
        op = None
        for step in case.steps:
            if step.kind == "client":
                op = step.control.get("op", op)
            code = step.pattern.example.get("error", {}).get("code") if step.pattern else None
            if code in ERRORS_BY_CODE and op in allowed:
                assert code in common | allowed[op], case.name


def test_every_feature_of_the_code_is_in_section_4(spec):
    stated = {name for name, _, _ in list(rows(section(spec, "4.1")))[1:]}
    assert stated == {SERVE_FD, INGEST_FD}


def test_every_transition_is_in_section_5(spec):
    def steps(words):
        return words.upper().replace(" ", "_")

    stated = {
        (half, state, steps(step), following)
        for half, state, step, following in list(rows(section(spec, "5.1")))[1:]
    }
    assert stated == {
        (side.value, state.value, step.name, following.value)
        for side, states in TRANSITIONS.items()
        for state, table in states.items()
        for step, following in table.items()
    }


def test_the_drawing_has_every_state_and_step_of_each_half(spec):
    drawing = re.search(r"```\n(client half\n(?:.*\n)*?)```", section(spec, "5.1"))[1]
    client, server = drawing.split("server half")
    for side, text in ((Side.CLIENT, client), (Side.SERVER, server)):
        states = {following for table in TRANSITIONS[side].values() for following in table.values()}
        assert set(re.findall(r"\[(\w+)\]", text)) >= {state.value for state in states}
        steps = {step for table in TRANSITIONS[side].values() for step in table}
        for step in steps:
            assert re.search(rf"\b{step.name.lower().replace('_', ' ')}\b", text), step


@pytest.mark.parametrize(
    ("words", "number"),
    [(IngestOutcome, "7.1"), (BackendState, "7.5"), (ObjectState, "7.6")],
)
def test_every_word_of_an_open_list_is_explained(spec, words, number):
    for word in words:
        assert f"`{word}`" in section(spec, number)


def test_every_field_of_the_schema_is_named(spec, protocol_folder):
    schema = (protocol_folder / "dataplane.cddl").read_text(encoding="utf-8")
    for field in set(re.findall(r"^\s+(?:\? )?([a-z0-9_]+):", schema, re.MULTILINE)):
        assert re.search(rf"[`\"]{field}[`\"]", spec), field


def test_every_section_that_the_code_cites_exists(spec):
    package = Path(dataplane_protocol.__file__).parent
    numbers = set(re.findall(r"^##+ ([0-9.]*[0-9])", spec, re.MULTILINE))
    cited = {
        number
        for module in package.glob("*.py")
        for number in re.findall(r"`SPEC\.md` ([0-9][0-9.]*[0-9]|[0-9])", module.read_text("utf-8"))
    }
    assert cited
    assert cited <= numbers


def test_the_version_is_the_newest_of_section_13(spec):
    versions = re.findall(r"^\*\*(\d+)\*\*", section(spec, "13"), re.MULTILINE)
    assert max(map(int, versions)) == dataplane_protocol.PROTOCOL_VERSION


def test_sections_are_numbered_without_gaps(spec):
    numbers = re.findall(r"^## (\d+)\. ", spec, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 14)]
    for number in numbers:
        parts = re.findall(rf"^### {number}\.(\d+) ", spec, re.MULTILINE)
        assert parts == [str(part) for part in range(1, len(parts) + 1)]


def test_references_to_sections_exist(spec):
    numbers = set(re.findall(r"^##+ ([0-9.]*[0-9])", spec, re.MULTILINE))
    text = re.sub(r"RFC \d+ section [\d.]+", "", spec)
    cited = set(re.findall(r"\((\d+(?:\.\d+)?)\)", text)) | set(
        re.findall(r"(?:section|in) (\d+\.\d+|\d+)\b", text)
    )
    assert cited <= numbers
