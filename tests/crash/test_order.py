"""The daemon syncs bytes, names and commits before it answers, seen in its system calls."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blake3
import pytest

from dataplane_client import blocking
from dataplane_protocol import ContentAddress

from .ordering import Ordering, Rule, Step, Violation
from .syscalls import Call, Trace, tracer, why_not_traced

SMALL = random.Random(1).randbytes(1_000)
LARGE = random.Random(2).randbytes(300_000)

#: What the client asks: the operation, the object, and how the daemon must answer.
SCRIPT = [
    ("ingest", SMALL, "created"),
    ("ingest", LARGE, "created"),
    ("ingest", SMALL, "existed"),
    ("ingest", LARGE, "existed"),
    ("damage", LARGE, None),
    ("ingest", LARGE, "healed"),
    ("delete", SMALL, True),
    ("delete", LARGE, True),
]


@dataclass(frozen=True)
class Run:
    """A daemon that played the script."""

    trace: Trace
    root: str
    steps: list[Step]

    def check(self, trace: Trace | None = None) -> list[Violation]:
        return Ordering(trace or self.trace, self.root, self.steps).violations()

    @property
    def objects(self) -> str:
        return f"{self.root}/objects"

    @property
    def log(self) -> str:
        return f"{self.root}/catalog.sqlite3-wal"


def play(plane: Any, daemon: Any) -> list[Step]:
    """Do what the script says, hold every answer against it, and tell the calls."""
    steps = []
    for operation, data, expected in SCRIPT:
        digest = blake3.blake3(data).hexdigest()
        if operation == "damage":
            (file,) = (path for path in daemon.files("objects") if path.name.startswith(digest))
            file.chmod(0o600)  # not even its owner may write to an object
            os.truncate(file, 100_000)
        elif operation == "ingest":
            assert plane.ingest_stream([data]).receipt.outcome == expected
            is_healed = expected == "healed"
            steps.append(Step(digest=digest, changes=expected != "existed", ends_a_copy=is_healed))
        else:
            assert plane.delete_object(ContentAddress(f"blake3:{digest}")).deleted is expected
            steps.append(Step(digest=digest, ends_a_copy=True))
    return steps


@pytest.fixture(scope="module")
def run(daemon_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One daemon, traced from its first start on an empty root to its end."""
    # Where the suite must pass, an oracle that is not asked would be taken for one that agrees.
    if why_not_traced() and os.environ.get("CI") != "true":
        pytest.skip(why_not_traced())
    output = tmp_path_factory.mktemp("trace") / "calls"
    with daemon_process() as daemon:
        daemon.stop()
        shutil.rmtree(daemon.root)
        daemon.start(wrapper=tracer(output))
        assert daemon.wait_for("swept")
        with blocking.connect(daemon.socket_path, pool_size=1) as plane:
            steps = play(plane, daemon)
        assert daemon.stop() == 0
        return Run(Trace.read(output), str(daemon.root), steps)


@pytest.mark.slow
def test_everything_is_on_disk_in_its_order_before_it_is_acknowledged(run: Run) -> None:
    assert run.check() == []
    # A trace that shows none of this would break no rule either.
    ordering = Ordering(run.trace, run.root, run.steps)
    published = [len(ordering.published(number)) for number in range(len(run.steps))]
    assert (published[1], published[4]) == (1, 1), "a large object is a file, a healed one anew"
    assert all(run.trace.syncs(name) for name in (run.root, run.objects, run.log))


def staged_file_syncs(run: Run) -> list[Call]:
    staged = {staged for _, staged, _ in run.trace.renames(run.objects)}
    return [call for path in staged for call in run.trace.syncs(path)]


def shard_syncs(run: Run) -> list[Call]:
    shards = {name.rpartition("/")[0] for _, _, name in run.trace.renames(run.objects)}
    return [call for path in shards for call in run.trace.syncs(path)]


def log_syncs(run: Run) -> list[Call]:
    return run.trace.syncs(run.log)


def layout_syncs(run: Run) -> list[Call]:
    return run.trace.syncs(run.objects)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("syncs", "rules"),
    [
        (staged_file_syncs, {Rule.BYTES}),
        (shard_syncs, {Rule.NAME}),
        (log_syncs, {Rule.COMMIT, Rule.REMOVAL}),
        (layout_syncs, {Rule.DIRECTORY}),
    ],
)
def test_a_daemon_that_leaves_a_kind_of_sync_out_is_caught(
    syncs: Callable[[Run], list[Call]], rules: set[Rule], run: Run
) -> None:
    dropped = syncs(run)
    assert dropped
    assert {violation.rule for violation in run.check(run.trace.without(dropped))} == rules


@pytest.mark.slow
def test_every_single_sync_of_a_commit_is_needed(run: Run) -> None:
    """Leave out one sync of the log at a time: the last one before each answer is missed."""
    missed = 0
    answers = run.trace.answers
    for call in log_syncs(run):
        if answers[0].begun < call.begun < answers[-1].begun:
            missed += any(v.rule is Rule.COMMIT for v in run.check(run.trace.without([call])))
    assert missed >= sum(step.changes for step in run.steps)


@pytest.mark.slow
def test_a_file_that_goes_before_the_commit_is_caught(run: Run) -> None:
    removal, name = run.trace.removals(run.objects)[-1]
    call_before = run.trace.answers[-2]
    (violation,) = run.check(run.trace.moved(removal, call_before.ended + 1))
    assert violation == Violation(rule=Rule.REMOVAL, subject=name)


@pytest.mark.slow
def test_a_call_that_commits_nothing_is_caught(run: Run) -> None:
    before, answer = run.trace.answers[-2:]
    writes = [w for w in run.trace.writes(run.log) if before.begun < w.begun < answer.begun]
    broken = {violation.rule for violation in run.check(run.trace.without(writes))}
    assert Rule.CHANGE in broken


@pytest.mark.slow
def test_a_write_through_an_object_s_name_is_caught(run: Run) -> None:
    rename, _, name = run.trace.renames(run.objects)[-1]
    lines = list(run.trace.lines)
    lines.insert(rename.ended + 1, f'1 write(9<{name}>, ""..., 5) = 5')
    (violation,) = run.check(Trace(lines))
    assert violation == Violation(rule=Rule.IMMUTABLE, subject=name)


ROOT = "/store"
FILE = f"{ROOT}/objects/ab/{'ab' * 32}.1-0"
STAGED = f"{ROOT}/staging/1-0"
LOG = f"{ROOT}/catalog.sqlite3-wal"

#: One ingest as it should be. The greeting is the first answer.
GOOD = f"""\
7 accept4(5<socket:[1]>, {{sa_family=AF_UNIX}}, [110 => 2], SOCK_CLOEXEC) = 6<socket:[2]>
7 sendmsg(6<socket:[2]>, {{msg_name=NULL, msg_iov=[...]}}, 0) = 63
8 write(9<{STAGED}>, ""..., 300000) = 300000
8 fsync(9<{STAGED}>) = 0
8 renameat(3<{ROOT}/staging>, "1-0", 4<{ROOT}/objects/ab>, "{"ab" * 32}.1-0") = 0
8 fsync(4<{ROOT}/objects/ab>) = 0
8 pwrite64(10<{LOG}>, ""..., 4096, 56) = 4096
8 fdatasync(10<{LOG}>) = 0
7 sendmsg(6<socket:[2]>, {{msg_name=NULL, msg_iov=[...]}}, 0) = 274
""".splitlines()


def broken_rules(lines: list[str]) -> set[Rule]:
    trace = Trace(lines)
    return {v.rule for v in Ordering(trace, ROOT, [Step(digest="ab" * 32)]).violations()}


def test_the_order_of_one_good_ingest_breaks_no_rule() -> None:
    assert broken_rules(GOOD) == set()
    assert [name for _, _, name in Trace(GOOD).renames(f"{ROOT}/objects")] == [FILE]


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [(2, 3, Rule.BYTES), (3, 4, Rule.BYTES), (4, 5, Rule.NAME), (6, 7, Rule.COMMIT)],
)
def test_two_steps_the_wrong_way_round_break_a_rule(first: int, second: int, rule: Rule) -> None:
    lines = list(GOOD)
    lines[first], lines[second] = lines[second], lines[first]
    assert broken_rules(lines) == {rule}


@pytest.mark.parametrize(
    ("line", "rule"), [(3, Rule.BYTES), (5, Rule.NAME), (7, Rule.COMMIT)], ids=str
)
@pytest.mark.parametrize("result", ["-1 EIO (Input/output error)", "?"])
def test_a_sync_that_failed_is_none(line: int, rule: Rule, result: str) -> None:
    lines = list(GOOD)
    lines[line] = lines[line].replace("= 0", f"= {result}")
    assert broken_rules(lines) == {rule}


def cut_in_two(lines: list[str], line: int, end: int) -> list[str]:
    """Let another thread make the call on a line, which returns only behind the line `end`."""
    _, text = lines[line].split(" ", 1)
    name = text.partition("(")[0]
    head, _, result = text.rpartition(")")
    begun = f"9 {head} <unfinished ...>"
    resumed = f"9 <... {name} resumed>){result}"
    return [*lines[:line], begun, *lines[line + 1 : end + 1], resumed, *lines[end + 1 :]]


@pytest.mark.parametrize(
    ("line", "end", "rules"),
    [
        (3, 4, {Rule.BYTES}),  # the name was there before the sync was done
        (5, 8, {Rule.NAME}),  # so was the answer
        (7, 8, {Rule.COMMIT}),
        (2, 3, {Rule.BYTES}),  # a sync that began in the middle of a write need not cover it
        (6, 7, {Rule.COMMIT}),
        (4, 5, {Rule.NAME}),
        (3, 3, set()),
        (5, 7, set()),  # two threads at work, both done before the answer
    ],
)
def test_a_call_is_done_only_where_it_is_resumed(line: int, end: int, rules: set[Rule]) -> None:
    assert broken_rules(cut_in_two(GOOD, line, end)) == rules
