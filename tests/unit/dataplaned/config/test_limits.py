import pytest

from dataplaned.config import ConfigurationError, load_config


def problems_of(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    try:
        load_config(str(path), socket=None, root=None, environment={})
    except ConfigurationError as exc:
        return [line.removeprefix(f"{path}: ") for line in str(exc).splitlines()]
    return []


# fmt: off
WRONG = [
        (
            "[daemon]\nmax_connections_per_user = 0",
            "daemon.max_connections_per_user: is 0, must be",
        ),
    ("[daemon]\nmax_bytes_in_flight = 1", "daemon.max_bytes_in_flight: is 1, must be 16777216"),
    ("[daemon]\nidle_timeout_s = 0.5", "daemon.idle_timeout_s: is 0.5, must be 0 or from 1 on"),
    ("[daemon]\nidle_timeout_s = -1", "daemon.idle_timeout_s: is -1.0, must be from 0 to"),
    ("[daemon]\nstall_timeout_s = 0", "daemon.stall_timeout_s: is 0.0, must be from 60 to 3600"),
    ("[socket.'a b']\npath = '/s'", "socket.a b: name must match"),
    ("[socket.a]\nmode = '0o7'", "socket.a.mode: is '0o7', must be octal, such as 0660"),
    ("[socket.a]\nmode = '4777'", "socket.a.mode: is '4777', must be octal"),
    ("[socket.a]\nmode = 660", "socket.a.mode: is 660, must be str"),
    ("[socket.a]\npath = ''", "socket.a.path: must not be empty"),
    (f"[socket.a]\npath = '/{'x' * 107}'", "socket.a.path: longer than 107 bytes"),
        (
            "[socket.a]\npath = '/s'\n[socket.b]\npath = '/s'",
            "socket.b.path: is that of socket.a too",
        ),
        (
            "[daemon]\nsocket = '/s'\n[socket.b]\npath = '/s'",
            "socket.b.path: is that of daemon.socket",
        ),
    ("[socket.a]\ngroup = '-x'", "socket.a.group: is '-x', must be a name or a number"),
    ("[socket.a]\nuser = '4294967295'", "socket.a.user: is '4294967295', must be a name"),
        (
            "[socket.a]\ngroup_roles = ['reed']",
            "socket.a.group_roles[0]: is 'reed', must be one of read,",
        ),
        (
            "[access.users]\n'65534' = ['read']",
            "access.users.65534: is '65534', which stands for every",
        ),
        (
            "[access.users]\nnobody = ['read']",
            "access.users.nobody: is 'nobody', which stands for every",
        ),
        (
            "[socket.a.groups]\nnogroup = ['read']",
            "socket.a.groups.nogroup: is 'nogroup', which stands",
        ),
    ("[access.users]\nci = 'read'", "access.users.ci: "),
        (
            "[access.users]\nci = ['write']",
            "access.users.ci[0]: is 'write', must be one of read, ingest",
        ),
        (
            "[log]\nformat = 'xml'",
            "log.format: is 'xml', must be one of auto, human, json, journal",
        ),
    ("[log]\naudit = 'file'", "log.audit: is 'file', must be log, off, or an absolute path"),
        (
            "[metrics]\nlisten = '0.0.0.0:9464'",
            "metrics.listen: is '0.0.0.0:9464', must be a loopback",
        ),
    ("[metrics]\nlisten = '127.0.0.1:99999'", "metrics.listen: is '127.0.0.1:99999', must be"),
    ("[metrics]\nlisten = ':9464'", "metrics.listen: is ':9464', must be a loopback"),
]
# fmt: on


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_what_is_out_of_bounds_is_named(tmp_path, text, problem):
    (found,) = problems_of(tmp_path, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "text",
    [
        "[daemon]\nidle_timeout_s = 1",
        "[daemon]\nmax_bytes_in_flight = 16777216",
        "[socket.a-b_c.1]\n".replace(".1", "1") + "path = '/s'\nmode = '660'\nuser = '0'",
        "[socket.passed_on]",
        "[access.groups]\n'4294967294' = ['read']\n'host$' = []",
        "[log]\naudit = '/var/log/audit'",
        "[metrics]\nlisten = '[::1]:9464'",
        "[metrics]\nlisten = 'localhost:0'",
        "[metrics]\nlisten = '/run/m.sock'",
    ],
)
def test_what_is_within_them_is_accepted(tmp_path, text):
    assert problems_of(tmp_path, text) == []
