"""`dataplane.cddl` against the vectors: it takes every message and refuses every mutant.

Each control frame is checked against the rule of its kind, its arguments and results against
those of the operation. A mutant lacks one required key, or has a known key of another type.
"""

import copy
import re

import cbor2
import pycddl
import pytest

from dataplane_protocol import (
    ERRORS_BY_CODE,
    INGEST_FD,
    MAX_BATCH,
    SERVE_FD,
    BodyKind,
    Operation,
)

KINDS = {
    "hello": "hello-frame",
    "op": "request-frame",
    "ok": "ok-frame",
    "error": "error-frame",
    "end": "end-frame",
}

#: Keys of the vectors that no rule knows.
EXTENSIONS = {"later", "__proto__"}
#: Keys that a vector has in a kind of frame that does not know them.
KEYS_OF_OTHER_KINDS = {("end-frame", key) for key in ("args", "body", "trace")}


class Schema:
    """The rules by name, and which keys they know."""

    def __init__(self, text):
        # RFC 8610 section 3.8.3: an expression matches the whole text. pycddl searches.
        self._text = re.sub(r'\.regexp "(.*)"', r'.regexp "^(?:\1)$"', text)
        self._compiled = {}
        self.optional = {}
        self.rule_of_key = {}
        rule = None
        for line in text.splitlines():
            code = line.partition(";")[0]
            if start := re.match(r"([a-z_-]+) = \{", code):
                rule = start[1]
            elif field := re.match(r"\s+(\? )?([a-z0-9_]+): (.*)", code):
                self.optional[rule, field[2]] = bool(field[1])
                for name in re.findall(r"[a-z_]+-[a-z]+", field[3]):
                    self.rule_of_key[rule, field[2]] = name

    def accepts(self, rule, value):
        if rule not in self._compiled:
            # The first rule is the one that is checked.
            self._compiled[rule] = pycddl.Schema(f"root = {rule}\n{self._text}")
        try:
            self._compiled[rule].validate_cbor(cbor2.dumps(value))
        except pycddl.ValidationError:
            return False
        return True

    def alternatives(self, rule):
        (body,) = re.findall(rf"^{rule} = ((?:\"[a-z_]+\"[ /\n]*)+)", self._text, re.MULTILINE)
        return set(re.findall(r'"([a-z_]+)"', body))


@pytest.fixture(scope="module")
def schema(protocol_folder):
    return Schema((protocol_folder / "dataplane.cddl").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def samples(frames, cases):
    """Every rule with a value that it must take."""
    found = [
        (kind_of(vector.control), vector.control)
        for vector in frames["accept"]
        if vector.control is not None
    ]
    for vector in frames["accept"]:
        what, _, op = vector.name.partition(" ")
        op = op.split(" ")[0]
        if what == "request" and op in set(Operation):
            found.append((f"{op}-args", vector.control["args"]))
        if what == "ok" and op in set(Operation):
            found.append((f"{op}-result", vector.control["ok"]))
    for case in cases:
        found += [(kind_of(frame), frame) for frame in conversation(case)]
        for request, answer in calls(case):
            if "ok" in answer:
                found.append((f"{request['op']}-args", request["args"]))
                found.append((f"{request['op']}-result", answer["ok"]))
    return found


def kind_of(frame):
    (kind,) = set(frame) & set(KINDS)
    return KINDS[kind]


def conversation(case):
    for step in case.steps:
        if step.control is not None:
            yield step.control
        elif step.pattern is not None:
            yield step.pattern.example


def calls(case):
    request = None
    for frame in conversation(case):
        if "op" in frame:
            request = frame
        elif request is not None and ("ok" in frame or is_answer(frame)):
            yield request, frame
            request = None


def is_answer(frame):
    # Aborts of the vectors have no message; answers all have one.
    return "error" in frame and frame["error"]["message"] != ""


def test_every_message_and_its_arguments_and_results_are_taken(schema, samples):
    for rule, value in samples:
        assert schema.accepts(rule, value), (rule, value)


def test_arguments_that_the_rules_refuse_are_answered_with_bad_request(schema, cases):
    refused = 0
    for case in cases:
        for request, answer in calls(case):
            if request["op"] in set(Operation) and not schema.accepts(
                f"{request['op']}-args", request["args"]
            ):
                assert answer["error"]["code"] == "bad_request", case.name
                refused += 1
    assert refused > 10


def test_every_key_that_a_rule_knows_is_in_a_vector(schema, samples):
    seen = {
        (rule, key) for root, value in samples for rule, key, _, _ in known(schema, root, value)
    }
    assert seen == set(schema.optional)


def test_a_required_key_cannot_be_left_out(schema, samples):
    for root, sample in distinct(samples):
        for rule, key, path, _ in known(schema, root, sample):
            mutant = copy.deepcopy(sample)
            del at(mutant, path)[key]
            assert schema.accepts(root, mutant) == schema.optional[rule, key], (root, path, key)


def test_a_known_key_cannot_have_another_type(schema, samples):
    for root, sample in distinct(samples):
        for _, key, path, value in known(schema, root, sample):
            for wrong in (None, 1.5, b"bytes", "text", 7, True, [], {}):
                # pycddl takes byte strings for ranges of integers, and panics where a
                # byte string meets a literal text.
                is_beyond_tool = wrong == b"bytes" and (key == "body" or type(value) is int)
                if type(wrong) is type(value) or is_beyond_tool:
                    continue
                mutant = copy.deepcopy(sample)
                at(mutant, path)[key] = wrong
                assert not schema.accepts(root, mutant), (root, path, key, wrong)


def test_a_key_that_no_rule_knows_is_taken_in_every_map(schema, samples):
    for root, sample in distinct(samples):
        for path in {path for _, _, path, _ in known(schema, root, sample)}:
            mutant = copy.deepcopy(sample)
            at(mutant, path)["later"] = [None]
            assert schema.accepts(root, mutant), (root, path)


@pytest.mark.parametrize(
    ("text", "is_digest"),
    [
        ("blake3:" + "0" * 64, True),
        ("a:00", True),
        ("a-b_c:" + "0f" * 64, True),
        ("a" * 32 + ":00", True),
        ("a" * 33 + ":00", False),
        ("blake3:" + "0" * 63, False),
        ("blake3:" + "0f" * 65, False),
        ("BLAKE3:00", False),
        ("blake3:0F", False),
        ("3blake:00", False),
        ("blake3:", False),
        (":00", False),
        ("blake3", False),
        ("x:blake3:00", False),
        ("blake3:00 ", False),
    ],
)
def test_the_grammar_of_digests_is_that_of_the_code(schema, text, is_digest):
    assert schema.accepts("digest-text", text) == is_digest


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [("size", 0, 2**53 - 1), ("milliseconds", 0, 253_402_300_799_999)],
)
def test_integers_have_bounds(schema, rule, least, most):
    assert schema.accepts(rule, least)
    assert schema.accepts(rule, most)
    assert not schema.accepts(rule, least - 1)
    assert not schema.accepts(rule, most + 1)


def test_batches_and_ranges_have_the_bounds_of_the_code(schema):
    address = "blake3:" + "0" * 64
    for count, is_taken in ((0, False), (1, True), (MAX_BATCH, True), (MAX_BATCH + 1, False)):
        batch = {"content_addresses": [address] * count}
        assert schema.accepts("stat_objects-args", batch) == is_taken
        assert schema.accepts("list_objects-args", {"limit": count}) == is_taken
    assert not schema.accepts("byte-range", {"offset": 0, "length": 0})
    assert schema.accepts("byte-range", {"offset": 0, "length": 1})


def test_operations_codes_features_and_kinds_of_body_are_those_of_the_code(schema):
    assert schema.alternatives("operation") == {str(op) for op in Operation}
    assert schema.alternatives("error-code") == set(ERRORS_BY_CODE)
    assert schema.alternatives("feature") == {SERVE_FD, INGEST_FD}
    assert schema.alternatives("body-kind") == {str(kind) for kind in BodyKind}


@pytest.mark.parametrize("kind", ["", "FD", "fds", "streams", "stream fd", "none"])
def test_another_kind_of_body_is_refused(schema, kind):
    assert not schema.accepts("request-frame", {"op": "serve_object", "args": {}, "body": kind})
    assert not schema.accepts("ok-frame", {"ok": {}, "body": kind})


def test_frames_that_the_codec_refuses_for_a_field_are_refused_by_the_rules(schema, frames):
    refused = 0
    for vector in frames["refuse"]:
        # How many digits an algorithm has (6.1-2) is in a comment of the rules only.
        is_beyond_rules = "6.1-2" in vector.rules
        if {"2.3-7", "5.8-1", "6.1-3", "6.4-1"} & set(vector.rules) and not is_beyond_rules:
            control = cbor2.loads(vector.frame[4:])
            assert not schema.accepts(kind_of(control), control), vector.name
            refused += 1
    assert refused > 25


def known(schema, rule, value, path=()):
    """Give rule, key, path of its map and value of every key of `value` that a rule knows."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from known(schema, rule, item, (*path, index))
        return
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if (rule, key) not in schema.optional:
            is_foreign = key in EXTENSIONS or (rule, key) in KEYS_OF_OTHER_KINDS
            assert is_foreign or is_open(path), (rule, path, key)
            continue
        yield rule, key, path, item
        inner = schema.rule_of_key.get((rule, key), rule)
        if not is_open((*path, key)):
            yield from known(schema, inner, item, (*path, key))


def is_open(path):
    """Whether a frame leaves what is there to other rules."""
    return bool(path) and path[-1] in ("args", "ok", "details")


def at(value, path):
    for key in path:
        value = value[key]
    return value


def distinct(samples):
    """Give one sample for each rule and set of keys: mutants of the others are the same."""
    found = {}
    for root, value in samples:
        if len(str(value)) < 5000:
            found.setdefault((root, str(shape(value))), value)
    return [(root, value) for (root, _), value in found.items()]


def shape(value):
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__
