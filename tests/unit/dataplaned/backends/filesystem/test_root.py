import errno
import os
import re
import stat
from contextlib import closing
from pathlib import Path

import pytest

from dataplane_protocol import NoSpaceError
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem.root import CATALOG_NAME, NotAFileError, Root
from dataplaned.digests import Digester

OTHER_RUN = "0123456789abcdef-0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def root(path):
    with closing(Root(str(path))) as root:
        yield root


def size_of(root, name):
    stamp = root.stamp(name)
    assert stamp is not None
    return int(stamp.split(":")[0])


def publish(root, data):
    staged = root.stage()
    staged.write([data])
    return staged.publish(digests_of(data).blake3)


def digests_of(data):
    digester = Digester()
    digester.update([data])
    return digester.finish()


def names_below(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def object_path(path, name):
    return path / "objects" / name[:2] / name


# Opening.


def test_a_missing_root_is_made_with_its_parents_for_this_user_only(tmp_path):
    path = tmp_path / "a" / "b"
    with closing(Root(str(path))):
        for directory in (path.parent, path, path / "staging", path / "objects" / "ff"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert len(list((path / "objects").iterdir())) == 256
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600


def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(BackendError, match=r"is not a store and not empty: it has 'thesis\.txt'"):
        Root(str(path))
    assert names_below(path) == ["thesis.txt"]
    assert not (path / "objects").exists()


def test_the_mark_of_a_mounted_volume_is_no_reason_to_refuse(path):
    (path / "lost+found").mkdir(parents=True)
    with closing(Root(str(path))):
        assert (path / "objects").is_dir()


def test_a_store_that_was_left_half_made_is_finished(path):
    (path / "objects" / "00").mkdir(parents=True)
    (path / "staging").mkdir()
    (path / "lock").touch()
    (path / CATALOG_NAME).touch()
    with closing(Root(str(path))):
        assert len(list((path / "objects").iterdir())) == 256


@pytest.mark.parametrize("leave_empty_catalog", [False, True])
def test_objects_without_a_catalog_are_refused_before_a_sweep_can_take_them(
    path, leave_empty_catalog
):
    with closing(Root(str(path))) as root:
        name = publish(root, b"precious")
    if leave_empty_catalog:
        (path / CATALOG_NAME).touch()
    with pytest.raises(BackendError, match=rf"has objects but no {CATALOG_NAME}"):
        Root(str(path))
    assert object_path(path, name).read_bytes() == b"precious"


def test_a_second_opening_is_refused_and_told_who_holds_the_store(root, path):
    with pytest.raises(BackendError, match=r"in use by process unknown$"):
        Root(str(path))
    root.note_run()
    with pytest.raises(BackendError, match=f"in use by process {os.getpid()}$"):
        Root(str(path))


def test_a_store_can_be_opened_again_once_it_was_closed(path):
    Root(str(path)).close()
    (path / "lock").write_text("4194304 and more than a pid takes")
    with closing(Root(str(path))) as root:
        assert root.last_run == ""
        root.note_run()
        assert (path / "lock").read_text() == f"{os.getpid():10} {root.run}\n"


def test_the_lock_names_the_last_run_once_it_was_noted(path):
    runs = []
    path.mkdir()
    (path / CATALOG_NAME).write_text("noted only with a catalog")
    for is_noted in (True, False, True):
        with closing(Root(str(path))) as root:
            runs.append(root.run)
            if is_noted:
                root.note_run()
            last_run = root.last_run
    assert len(set(runs)) == 3
    assert last_run == runs[0]
    with closing(Root(str(path))) as root:
        assert root.last_run == runs[2]


@pytest.mark.parametrize(
    "note", [b"", b"123\n", b"       123 0123456789abcdeX\n", bytes(28), b"\xff" * 100]
)
def test_a_lock_that_says_nothing_names_no_run(path, note):
    path.mkdir()
    (path / "lock").write_bytes(note)
    with closing(Root(str(path))) as root:
        assert root.last_run == ""
        root.note_run()
        assert re.fullmatch(r" *\d+ [0-9a-f]{16}\n", (path / "lock").read_text())


def test_a_backup_in_the_root_is_expected_and_no_catalog(path):
    path.mkdir()
    (path / "backup.sqlite3").write_text("the catalog of some day")
    with pytest.raises(BackendError, match="has lost its catalog"):
        Root(str(path))
    with closing(Root(str(path), is_catalog_needed=False)) as root:
        name = publish(root, b"precious")
    with pytest.raises(BackendError, match=rf"has objects but no {CATALOG_NAME}"):
        Root(str(path))
    with closing(Root(str(path), is_catalog_needed=False)) as root:
        assert size_of(root, name) == 8


def test_a_refused_opening_leaves_no_descriptor_behind(root, path):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BackendError):
        Root(str(path))
    assert os.listdir("/proc/self/fd") == before


def test_a_root_that_is_a_file_is_an_error(path):
    path.write_text("")
    with pytest.raises(NotADirectoryError):
        Root(str(path))


# Staging and publishing.


def test_what_is_staged_is_private_and_no_object(root, path):
    root.stage().write([b"half"])
    (staged,) = (path / "staging").iterdir()
    assert stat.S_IMODE(staged.stat().st_mode) == 0o600
    assert names_below(path / "objects") == []


def test_a_published_file_is_whole_and_cannot_be_written(root, path):
    staged = root.stage()
    staged.write([b"one ", b"", b"two"])
    name = staged.publish(digests_of(b"one two").blake3)
    published = object_path(path, name)
    assert published.read_bytes() == b"one two"
    assert stat.S_IMODE(published.stat().st_mode) == 0o400
    assert name.startswith(f"{digests_of(b'one two').blake3.hex()}.")
    assert names_below(path / "staging") == []


def test_a_short_write_is_never_taken_for_a_whole_one(root, path, limit_file_size):
    staged = root.stage()
    with (
        limit_file_size(1_000_000),
        pytest.raises(OSError, match="File too large") as caught,
    ):
        staged.write([bytes(700_000), bytes(700_000)])
    assert caught.value.errno == errno.EFBIG
    (left,) = (path / "staging").iterdir()
    assert left.stat().st_size == 1_000_000
    # The rest is taken up where the write ended, once there is room.
    staged.write([b"!"])
    assert left.read_bytes() == bytes(1_000_000) + b"!"


def test_names_never_repeat(path):
    names = []
    for _ in range(3):
        with closing(Root(str(path))) as root:
            names += [publish(root, b"same"), publish(root, b"same")]
            for name in names[-2:]:
                root.remove_files([name])
    assert len(set(names)) == 6


def test_discarding_removes_a_staged_file_once_and_a_published_one_never(root, path):
    dropped = root.stage()
    dropped.discard()
    dropped.discard()
    assert names_below(path / "staging") == []
    kept = root.stage()
    name = kept.publish(digests_of(b"").blake3)
    kept.discard()
    assert size_of(root, name) == 0


def test_a_file_that_could_not_move_can_still_be_discarded(root, path):
    staged = root.stage()
    blake3 = digests_of(b"").blake3
    (path / "objects" / blake3.hex()[:2]).rmdir()
    with pytest.raises(FileNotFoundError):
        staged.publish(blake3)
    staged.discard()
    assert names_below(path / "staging") == []


def test_nothing_moves_when_no_descriptor_is_left(root, path, no_descriptors_left):
    staged = root.stage()
    with no_descriptors_left(), pytest.raises(OSError, match="Too many open files"):
        staged.publish(digests_of(b"").blake3)
    assert names_below(path / "objects") == []
    staged.publish(digests_of(b"").blake3)
    assert len(names_below(path / "objects")) == 1


def test_a_file_is_found_by_its_name_only(root, path):
    name = publish(root, b"12345")
    assert size_of(root, name) == 5
    fd = root.open_file(name)
    assert os.pread(fd, 10, 0) == b"12345"
    os.close(fd)
    root.remove_files([name])
    root.remove_files([name])
    assert root.stamp(name) is None
    with pytest.raises(FileNotFoundError):
        root.open_file(name)


def test_a_symbolic_link_is_not_followed(root, path, tmp_path):
    name = publish(root, b"good")
    object_path(path, name).unlink()
    (tmp_path / "elsewhere").write_text("secret")
    object_path(path, name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotAFileError):
        root.open_file(name)
    assert size_of(root, name) != len("secret")


def test_a_stamp_shows_every_change_that_goes_through_the_kernel(root, path):
    file = object_path(path, name := publish(root, b"12345"))
    stamps = [root.stamp(name)]
    for change in (
        lambda: file.chmod(0o600),
        lambda: file.write_bytes(b"54321"),
        lambda: os.utime(file, ns=(1, 1)),
        lambda: os.truncate(file, 4),
    ):
        file.chmod(0o600)
        change()
        stamps.append(root.stamp(name))
    copy = path / "copy"
    copy.write_bytes(b"5432")
    copy.replace(file)
    stamps.append(root.stamp(name))
    assert len(set(stamps)) == 6
    assert root.stamp(name) == stamps[-1]
    file.unlink()
    assert root.stamp(name) is None


# Room.


def test_room_that_a_file_was_given_and_did_not_need_is_given_back(root, path):
    staged = root.stage()
    staged.allocate(1_000_000)
    (file,) = (path / "staging").iterdir()
    assert file.stat().st_blocks * 512 >= 1_000_000
    staged.write([b"some ", b"bytes"])
    name = staged.publish(digests_of(b"some bytes").blake3)
    assert object_path(path, name).read_bytes() == b"some bytes"
    assert object_path(path, name).stat().st_blocks * 512 <= 64 * 1024


def test_a_file_that_grew_beyond_its_room_is_whole(root, path):
    staged = root.stage()
    staged.allocate(10)
    staged.write([bytes(100_000)])
    name = staged.publish(digests_of(bytes(100_000)).blake3)
    assert object_path(path, name).read_bytes() == bytes(100_000)


def test_room_is_what_is_free_but_for_what_stays_free(path):
    with closing(Root(str(path), min_free_bytes=1000)) as root:
        root.space = lambda: (5000, 10_000)
        root.require_room(4000)
        with pytest.raises(NoSpaceError, match="4001 bytes do not fit: 5000 are free, 1000 stay"):
            root.require_room(4001)
        root.space = lambda: (999, 10_000)
        with pytest.raises(NoSpaceError):
            root.require_room(0)


def test_a_limit_that_is_reached_is_no_room_and_leaves_nothing(root, path, limit_file_size):
    assert not root.is_out_of_room()
    with limit_file_size(100_000):
        assert root.is_out_of_room()
        assert not root.take_reserve()
    assert names_below(path / "staging") == []


def test_a_disk_that_fails_is_not_full(root, path, no_descriptors_left):
    with no_descriptors_left():
        assert not root.is_out_of_room()


# The catalog's backup.


def test_a_backup_takes_the_place_of_the_last_one(root, path):
    for content in ("first", "second"):
        name = root.new_name()
        Path(root.staged_path(name)).write_text(content)
        root.adopt_backup(name)
        assert Path(root.backup_path).read_text() == content
    assert Path(root.backup_path) == path / "backup.sqlite3"
    assert names_below(path / "staging") == []


# The sweep.


def test_the_sweep_takes_what_earlier_runs_staged_and_nothing_else(path):
    Root(str(path)).close()
    (path / "staging" / OTHER_RUN).write_text("left over")
    (path / "staging" / "README").write_text("somebody's")
    with closing(Root(str(path))) as root:
        ours = root.stage()
        assert root.sweep_staging() == 1
        assert len(names_below(path / "staging")) == 2
        assert (path / "staging" / "README").exists()
        ours.write([b"still writable"])
        ours.publish(digests_of(b"still writable").blake3)


def test_the_sweep_takes_objects_of_earlier_runs_that_no_row_names(path):
    with closing(Root(str(path))) as root:
        garbage, known = publish(root, b"garbage"), publish(root, b"known")
    (path / CATALOG_NAME).write_text("not empty")
    foreign = path / "objects" / garbage[:2] / "notes.txt"
    foreign.write_text("somebody's")
    with closing(Root(str(path))) as root:
        ours = publish(root, b"published, its row not yet committed")
        swept = sum(root.sweep_shard(shard, known.__eq__) for shard in root.shards())
        assert swept == 1
        assert root.stamp(garbage) is None
        assert size_of(root, known) == 5
        assert root.stamp(ours) is not None
        assert foreign.exists()


# A root that is renamed or replaced under the daemon.


def test_everything_follows_a_root_that_was_renamed(root, path):
    moved = path.with_name("moved")
    (path / "staging" / OTHER_RUN).touch()
    (path / "objects" / "00" / f"{'0' * 64}.{OTHER_RUN}").touch()
    path.rename(moved)
    name = publish(root, b"data")
    assert object_path(moved, name).read_bytes() == b"data"
    assert root.sweep_staging() == 1
    assert root.sweep_shard("00", lambda _: False) == 1
    assert not path.exists()


def test_the_probe_notices_that_the_root_is_gone(root, path):
    path.rename(path.with_name("moved"))
    with pytest.raises(FileNotFoundError):
        root.probe()


def test_the_probe_notices_that_the_root_was_replaced(root, path):
    path.rename(path.with_name("moved"))
    path.mkdir()
    with pytest.raises(FileNotFoundError, match="directory was replaced"):
        root.probe()
    assert list(path.iterdir()) == []


def test_the_probe_leaves_nothing_and_tells_the_space(root, path):
    free, total = root.probe()
    assert 0 < free <= total
    assert names_below(path) == ["lock"]


def test_reading_back_something_else_is_an_error_of_the_disk(root, path):
    staged = root.stage()
    staged.write([b"probe"])
    staged.read_back(b"probe")
    for wrong in (b"probf", b"prob", b"probes"):
        with pytest.raises(OSError, match="read back other bytes") as caught:
            staged.read_back(wrong)
        assert caught.value.errno == errno.EIO
    staged.discard()


def test_room_that_was_set_aside_can_be_freed_and_set_aside_again(root, path):
    for _ in range(2):
        root.take_reserve()
        root.take_reserve()
        assert (path / "reserve").stat().st_blocks * 512 >= 1024 * 1024
        root.give_reserve()
        root.give_reserve()
        assert not (path / "reserve").exists()


def test_closing_lets_go_of_every_descriptor(path):
    before = os.listdir("/proc/self/fd")
    Root(str(path)).close()
    assert os.listdir("/proc/self/fd") == before
    assert Path(path).is_dir()
