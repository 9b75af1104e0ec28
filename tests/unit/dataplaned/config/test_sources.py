import os

import pytest

from dataplaned.config import ConfigurationError, load, load_config
from dataplaned.config.sources import DEFAULT

STORE = '[backend.local]\ntype = "filesystem"\nroot = "/srv/store"\n'


@pytest.fixture
def main(tmp_path):
    path = tmp_path / "main.toml"
    path.write_text(STORE)
    (tmp_path / "main.toml.d").mkdir()
    return path


def drop_in(main, name, text):
    path = main.parent / "main.toml.d" / name
    path.write_text(text)
    return path


def loaded(main, **environment):
    return load(str(main), socket=None, root=None, environment=environment)


def problem(main, **environment):
    with pytest.raises(ConfigurationError) as raised:
        loaded(main, **environment)
    return str(raised.value)


def test_drop_ins_are_put_over_the_file_in_the_order_of_their_names(main):
    drop_in(main, "20-b.toml", "[daemon]\nmax_calls = 20\nmax_connections = 20\n")
    last = drop_in(main, "60-a.toml", "[daemon]\nmax_calls = 60\n[backend.local]\nscrub_rate = 0\n")
    drop_in(main, "70.toml.bak", "nonsense")
    config = loaded(main).config
    assert (config.daemon.max_calls, config.daemon.max_connections) == (60, 20)
    assert (config.backend["local"].root, config.backend["local"].scrub_rate) == ("/srv/store", 0)
    sources = loaded(main).sources
    assert sources.origin_of("daemon.max_calls") == str(last)
    assert sources.origin_of("backend.local.root") == str(main)
    assert sources.origin_of("daemon.socket") == DEFAULT


def test_lists_are_replaced_and_tables_put_together(main):
    main.write_text(STORE + '[access.users]\na = ["read"]\nb = ["read", "ingest"]\n')
    drop_in(main, "1.toml", '[access.users]\nb = ["admin"]\nc = ["delete"]\n')
    users = loaded(main).config.access.users
    assert {name: list(roles) for name, roles in users.items()} == {
        "a": ["read"], "b": ["admin"], "c": ["delete"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[daemon]\nmax_calls = 0\n", "daemon.max_calls: is 0, must be 1 or more"),
        ("[daemon]\nmax_calls = 'x'\n", "daemon.max_calls: is 'x', must be int"),
        ("[daemon]\nmax_cals = 1\n", "daemon: unknown key 'max_cals', did you mean 'max_calls'?"),
        ("[demon]\n", "unknown key 'demon', did you mean 'daemon'?"),
        ("daemon = 1\n", "daemon: must be a table"),
        ("[", "Invalid initial character for a key part (at end of document)"),
    ],
)
def test_the_file_that_is_wrong_is_named(main, text, reason):
    path = drop_in(main, "1.toml", text)
    drop_in(main, "2.toml", "[daemon]\nmax_connections = 5\n")
    assert problem(main).startswith(f"{path}: {reason[:40]}")


def test_drop_ins_do_not_stand_for_a_file_that_is_missing(main):
    main.unlink()
    assert problem(main) == f"{main}: No such file or directory"


def test_a_directory_that_cannot_be_read_is_an_error(main, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert problem(main) == f"{main}.d: Permission denied"


def test_the_environment_is_put_over_files(main):
    drop_in(main, "1.toml", "[daemon]\nmax_calls = 20\n")
    config = loaded(
        main,
        DATAPLANED_DAEMON__MAX_CALLS="7",
        DATAPLANED_DAEMON__SERVE_FD="false",
        DATAPLANED_DAEMON__IDLE_TIMEOUT_S="2.5",
        DATAPLANED_LOG__LEVEL="debug",
        DATAPLANED_LOG__AUDIT="/var/log/1",
        DATAPLANED_BACKEND__LOCAL__ROOT="/mnt/1e3",
        DATAPLANED_ACCESS__USERS__REGISTRY='["read", "delete"]',
        DATAPLANED_SOCKET__CLIENTS__PATH="/run/c",
        DATAPLANED_SOCKET__CLIENTS__MODE="0660",
        DATAPLANED_SOCKET="/not/a/key",
        DATAPLANED_CONFIG="/neither",
        OTHER__THING="1",
    ).config
    assert (config.daemon.max_calls, config.daemon.serve_fd) == (7, False)
    assert config.daemon.idle_timeout_s == 2.5
    assert (config.log.level, config.log.audit) == ("debug", "/var/log/1")
    assert config.backend["local"].root == "/mnt/1e3"
    assert list(config.access.users["registry"]) == ["read", "delete"]
    assert (config.socket["clients"].path, config.socket["clients"].mode) == ("/run/c", "0660")
    assert config.daemon.socket == ""


def test_names_that_no_variable_can_have_are_matched(main):
    main.write_text(STORE.replace("local", "big-store"))
    config = loaded(main, DATAPLANED_BACKEND__BIG_STORE__SCRUB_RATE="0").config
    assert config.backend["big-store"].scrub_rate == 0


def test_a_variable_that_can_be_two_names_is_refused(main):
    main.write_text(STORE.replace("local", "a-b") + STORE.replace("local", "a_b"))
    reason = "$DATAPLANED_BACKEND__A_B__SCRUB_RATE: can be any of a-b, a_b"
    assert problem(main, DATAPLANED_BACKEND__A_B__SCRUB_RATE="0") == reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DAEMON__MAX_CALS", "1", "daemon: unknown key 'max_cals', did you mean 'max_calls'?"),
        ("DEAMON__MAX_CALLS", "1", "unknown key 'deamon', did you mean 'daemon'?"),
        ("DAEMON__MAX_CALLS", "many", "daemon.max_calls: is 'many', must be int"),
        ("DAEMON__MAX_CALLS", "0", "daemon.max_calls: is 0, must be 1 or more"),
        ("LOG__LEVEL", "loud", "log.level: is 'loud', must be one of debug, info, warning, error"),
        ("DAEMON__", "1", "must be DATAPLANED_TABLE__KEY"),
    ],
)
def test_the_variable_that_is_wrong_is_named(main, name, value, reason):
    assert problem(main, **{f"DATAPLANED_{name}": value}) == f"$DATAPLANED_{name}: {reason}"


def test_the_command_line_is_put_over_all(main):
    config = load_config(
        str(main),
        socket="/run/other",
        root="/other",
        environment={
            "DATAPLANED_DAEMON__SOCKET": "/run/s",
            "DATAPLANED_BACKEND__LOCAL__SCRUB_RATE": "0",
        },
    )
    assert config.daemon.socket == "/run/other"
    assert config.backend["local"].root == "/other"
    assert config.backend["local"].scrub_rate != 0
