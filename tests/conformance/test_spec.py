"""`SPEC.md` against the code and the vectors, both ways."""

import re
from pathlib import Path

import pytest

import dataplane_protocol
from dataplane_protocol import (
    ERRORS_BY_CODE,
    TRANSITIONS,
    BackendState,
    IngestOutcome,
    ObjectState,
    Operation,
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
    assert headings == [operation for operation, _, _ in list(rows(section(spec, "7")))[1:]]


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
