import pytest

from dataplaned.config import (
    Config,
    ConfigurationError,
    CredentialSource,
    DaemonConfig,
    FilesystemConfig,
    MemoryConfig,
    MirrorConfig,
    ObjectStoreConfig,
    load_config,
)


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "dataplaned.toml"

    def load(text, *, socket=None, root=None):
        path.write_text(text)
        return load_config(str(path), socket=socket, root=root)

    load.path = str(path)
    return load


def problems_of(load, text):
    """Give the lines of the error, each of which must name the file."""
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{load.path}: ") for line in lines)
    return [line.removeprefix(f"{load.path}: ") for line in lines]


def test_everything_can_be_set(load):
    config = load("""
        [daemon]
        socket = "/run/s"
        max_connections = 7
        drain_timeout_s = 2
        max_object_size = 1000
        serve_fd = false

        [backend.first]
        type = "filesystem"
        root = "/srv/first"
        max_verify_age_s = 60
        small_object_size = 4096
        min_free_bytes = 1000000
        scrub_rate = 1000
        scrub_interval_s = 30

        [backend.second]
        type = "memory"
    """)
    assert config == Config(
        daemon=DaemonConfig(
            socket="/run/s",
            max_connections=7,
            drain_timeout_s=2.0,
            max_object_size=1000,
            serve_fd=False,
        ),
        backend={
            "first": FilesystemConfig(
                root="/srv/first",
                max_verify_age_s=60.0,
                small_object_size=4096,
                min_free_bytes=1_000_000,
                scrub_rate=1000,
                scrub_interval_s=30.0,
            ),
            "second": MemoryConfig(),
        },
    )
    assert type(config.daemon.drain_timeout_s) is float


def test_the_first_backend_comes_first_whatever_its_name(load):
    config = load("""
        [backend.zebra]
        type = "memory"
        [backend.ant]
        type = "memory"
        [backend.mole]
        type = "memory"
    """)
    assert list(config.backend) == ["zebra", "ant", "mole"]


def test_nothing_has_to_be_set(load, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    monkeypatch.setattr("os.geteuid", lambda: 7)
    config = load("")
    assert config == load_config(None, socket=None, root=None)
    assert config.daemon == DaemonConfig(socket="/run/user/7/dataplaned/dataplaned.sock")
    assert config.backend == {"local": FilesystemConfig(root="/home/u/data/dataplaned")}


def test_the_system_has_places_of_its_own(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    config = load_config(None, socket=None, root=None)
    assert config.daemon.socket == "/run/dataplaned/dataplaned.sock"
    assert config.backend == {"local": FilesystemConfig(root="/var/lib/dataplaned")}


def test_a_user_without_a_data_directory_of_choice_has_one_at_home(monkeypatch):
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setattr("os.geteuid", lambda: 7)
    config = load_config(None, socket=None, root=None)
    assert config.backend == {"local": FilesystemConfig(root="/home/u/.local/share/dataplaned")}


def test_the_command_line_has_the_last_word(load):
    text = """
        [daemon]
        socket = "/run/s"
        [backend.a]
        type = "memory"
    """
    config = load(text, socket="/run/other", root="/srv/other")
    assert config.daemon.socket == "/run/other"
    assert config.backend == {"local": FilesystemConfig(root="/srv/other")}
    assert load(text, root="/srv/other").daemon.socket == "/run/s"
    assert list(load(text, socket="/run/other").backend) == ["a"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[deamon]", "unknown key 'deamon'"),
        ("[daemon]\nsokcet = 'x'", "daemon: unknown key 'sokcet'"),
        ("daemon = 1", "daemon: must be a table"),
        ("[daemon]\nsocket = 0", "daemon.socket: is 0, must be str"),
        ("[daemon]\nsocket = 1", "daemon.socket: is 1, must be str"),
        ('[daemon]\nsocket = "a\\u0000b"', "daemon.socket: must not have a zero byte"),
        ("[daemon]\nmax_connections = '7'", "daemon.max_connections: is '7', must be int"),
        ("[daemon]\nmax_connections = 7.0", "daemon.max_connections: is 7.0, must be int"),
        ("[daemon]\nmax_connections = true", "daemon.max_connections: is True, must be int"),
        ("[daemon]\nmax_connections = 0", "daemon.max_connections: is 0, must be 1 or more"),
        ("[daemon]\nmax_object_size = -1", "daemon.max_object_size: is -1, must be 0 or more"),
        ("[daemon]\nmax_object_size = 1.5", "daemon.max_object_size: is 1.5, must be int"),
        (
            "[daemon]\ndrain_timeout_s = -1",
            "daemon.drain_timeout_s: is -1.0, must be from 0 to 86400",
        ),
        (
            "[daemon]\ndrain_timeout_s = nan",
            "daemon.drain_timeout_s: is nan, must be from 0 to 86400",
        ),
        (
            "[daemon]\ndrain_timeout_s = inf",
            "daemon.drain_timeout_s: is inf, must be from 0 to 86400",
        ),
        ("[daemon]\nserve_fd = 'no'", "daemon.serve_fd: is 'no', must be bool"),
        ("[daemon]\nserve_fd = 1", "daemon.serve_fd: is 1, must be bool"),
        (
            "[backend.a]\ntype = 'filesystem'\nroot = '/a'\nmax_verify_age_s = -1",
            "backend.a.max_verify_age_s: is -1.0, must be from 0 to inf",
        ),
        *(
            (
                f"[backend.a]\ntype = 'filesystem'\nroot = '/a'\n{key} = {value}",
                f"backend.a.{key}: is {problem}",
            )
            for key, value, problem in (
                ("max_verify_age_s", "nan", "nan, must be from 0 to inf"),
                ("max_verify_age_s", "'7d'", "'7d', must be float"),
                ("small_object_size", -1, "-1, must be from 0 to 65536"),
                ("small_object_size", 65_537, "65537, must be from 0 to 65536"),
                ("small_object_size", 1.5, "1.5, must be int"),
                ("min_free_bytes", -1, "-1, must be from 0 to 9007199254740992"),
                ("min_free_bytes", 2**53 + 1, "9007199254740993, must be from 0 to"),
                ("min_free_bytes", "true", "True, must be int"),
                ("scrub_rate", -1, "-1, must be from 0 to 9007199254740992"),
                ("scrub_rate", 2**53 + 1, "9007199254740993, must be from 0 to"),
                ("scrub_interval_s", -0.5, "-0.5, must be from 0 to 3162240000"),
                ("scrub_interval_s", "inf", "inf, must be from 0 to 3162240000"),
                ("scrub_interval_s", "nan", "nan, must be from 0 to 3162240000"),
            )
        ),
        (
            "[backend.a]\ntype = 'filesystem'\nroot = '/a'\nscrub_intervall_s = 1",
            "backend.a: unknown key 'scrub_intervall_s'",
        ),
        ("[backend.a]\ntype = 'memory'\nscrub_rate = 1", "backend.a: unknown key 'scrub_rate'"),
        ("[daemon]\ndrain_timeout_s = true", "daemon.drain_timeout_s: is True, must be float"),
        (f"[daemon]\nsocket = '/{'x' * 107}'", "daemon.socket: longer than 107 bytes"),
        ("backend = 0", "backend: must be a table"),
        ("backend = 1", "backend: must be a table"),
        (
            "[backend]\na = 1",
            "backend.a: type is None, must be one of filesystem, memory, objectstore, mirror",
        ),
        (
            "[backend.a]",
            "backend.a: type is None, must be one of filesystem, memory, objectstore, mirror",
        ),
        ("[backend.a]\ntype = 'tape'", "backend.a: type is 'tape', must be one of"),
        ("[backend.a]\ntype = ['memory']", "backend.a: type is ['memory'], must be one of"),
        ("[backend.a]\ntype = 'filesystem'", "backend.a.root: is missing"),
        ("[backend.a]\ntype = 'filesystem'\nroot = ''", "backend.a.root: must not be empty"),
        ('[backend.a]\ntype = "filesystem"\nroot = "\\u0000"', "backend.a.root: must not be empty"),
        ("[backend.a]\ntype = 'filesystem'\nroot = 1", "backend.a.root: is 1, must be str"),
        ("[backend.a]\ntype = 'memory'\nroot = '/x'", "backend.a: unknown key 'root'"),
        ("[backend.Ab]\ntype = 'memory'", "backend.'Ab': id must match"),
        ("[backend.'']\ntype = 'memory'", "backend.'': id must match"),
        ('[backend."a\\nb"]\ntype = "memory"', "backend.'a\\nb': id must match"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(load, text, problem):
    (found,) = problems_of(load, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("key", "most"),
    [
        ("max_verify_age_s", "inf"),
        ("small_object_size", "65536"),
        ("min_free_bytes", "9007199254740992"),
        ("scrub_rate", "9007199254740992"),
        ("scrub_interval_s", "3162240000"),
    ],
)
def test_the_least_and_the_most_of_what_a_store_may_be_told_are_accepted(load, key, most):
    for value in ("0", most):
        store = load(f"[backend.a]\ntype = 'filesystem'\nroot = '/a'\n{key} = {value}").backend["a"]
        assert getattr(store, key) == float(value)


def test_everything_wrong_is_named_at_once(load):
    problems = problems_of(
        load,
        """
        [daemon]
        socket = 1
        max_connections = "many"
        speed = "high"
        [backend.a]
        type = "tape"
        [backend.b]
        type = "filesystem"
    """,
    )
    keys = sorted(problem.partition(":")[0] for problem in problems)
    assert keys == [
        "backend.a",
        "backend.b.root",
        "daemon",
        "daemon.max_connections",
        "daemon.socket",
    ]


def test_every_value_out_of_bounds_is_named_at_once(load):
    problems = problems_of(
        load,
        """
        [daemon]
        max_connections = 0
        drain_timeout_s = -1
        max_object_size = -1
        [backend.A]
        type = "memory"
    """,
    )
    assert len(problems) == 4


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file or directory"):
        load_config(str(tmp_path / "nowhere.toml"), socket=None, root=None)


@pytest.mark.parametrize("content", [b"[daemon", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"broken\.toml: "):
        load_config(str(path), socket=None, root=None)


def test_a_bad_value_of_the_command_line_is_named_as_such():
    with pytest.raises(ConfigurationError, match=r"^--socket: daemon.socket: longer than 107"):
        load_config(None, socket="/" + "x" * 107, root="/srv")


def test_the_longest_path_that_a_socket_can_have_is_accepted():
    assert load_config(None, socket="/" + "x" * 106, root="/srv").daemon.socket[1:] == "x" * 106


BUCKET = """
    [backend.b]
    type = "objectstore"
    url = "s3://bucket/prefix"
"""


def test_a_bucket_needs_its_url_alone(load):
    bucket = load(BUCKET).backend["b"]
    assert bucket == ObjectStoreConfig(url="s3://bucket/prefix")
    assert bucket.reclaim_after_s >= 10 * bucket.retry_timeout_s


def test_everything_of_a_bucket_can_be_set(load):
    bucket = load("""
        [backend.b]
        type = "objectstore"
        url = "az://container"
        endpoint = "http://127.0.0.1:10000/account"
        region = "here"
        spool = "/var/spool/b"
        spool_size = 1000000
        part_size = 131072
        small_object_size = 100
        parallel_parts = 2
        connect_timeout_s = 1
        request_timeout_s = 2.5
        retry_timeout_s = 10
        reclaim_after_s = 900
        reclaim_interval_s = 0
        [backend.b.options]
        account_name = "account"
        sse_kms_key_id = "name-of-a-key"
        [backend.b.credentials]
        account_key = { credential = "azure" }
        sas_token = { file = "/etc/token" }
    """).backend["b"]
    assert bucket.credentials == {
        "account_key": CredentialSource(credential="azure"),
        "sas_token": CredentialSource(file="/etc/token"),
    }
    assert bucket.options["account_name"] == "account"
    assert (bucket.part_size, bucket.retry_timeout_s) == (131_072, 10)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("url = 7", "backend.b.url: is 7, must be str"),
        ("url = 'ftp://x'", "backend.b.url: is 'ftp://x', must be like s3://bucket/prefix"),
        ("url = 's3://'", "backend.b.url: is 's3://', must be like"),
        ("url = 's3://user:secret@bucket'", "backend.b.url: is "),
        ("url = 's3://b'\nendpoint = 'host:80'", "backend.b.endpoint: must be like https://host"),
        ("url = 's3://b'\nendpoint = 'http://me:pw@host'", "backend.b.endpoint: must be like"),
        ("url = 's3://b'\npart_size = 65535", "backend.b.part_size: is 65535, must be from 65536"),
        ("url = 's3://b'\npart_size = 65537", "backend.b.part_size: is 65537, must be a multiple"),
        ("url = 's3://b'\nparallel_parts = 0", "backend.b.parallel_parts: is 0, must be from 1"),
        ("url = 's3://b'\nretry_timeout_s = 0", "backend.b.retry_timeout_s: is 0.0, must be from"),
        ("url = 's3://b'\nreclaim_after_s = 60", "backend.b.reclaim_after_s: is 60.0, must be fr"),
        (
            "url = 's3://b'\nretry_timeout_s = 1000",
            "backend.b.reclaim_after_s: is 3600.0, must be at least ten times retry_timeout_s",
        ),
        (
            "url = 's3://b'\n[backend.b.options]\nsecret_access_key = 'x'",
            "backend.b.options.secret_access_key: is a secret, must be among credentials",
        ),
        (
            "url = 's3://b'\n[backend.b.credentials]\nx = {}",
            "backend.b.credentials.x: must have either credential or file",
        ),
        (
            "url = 's3://b'\n[backend.b.credentials]\nx = { file = '/a', credential = 'b' }",
            "backend.b.credentials.x: must have either credential or file",
        ),
        (
            "url = 's3://b'\n[backend.b.credentials]\nx = { credential = '../a' }",
            "backend.b.credentials.x.credential: must be a file name",
        ),
        (
            "url = 's3://b'\n[backend.b.credentials]\nx = 'the secret itself'",
            "backend.b.credentials.x: ",
        ),
    ],
)
def test_what_is_wrong_with_a_bucket_is_named(load, line, problem):
    problems = problems_of(load, f"[backend.b]\ntype = 'objectstore'\n{line}")
    assert any(one.startswith(problem) for one in problems), problems
    assert "the secret itself" not in str(problems)


def test_secrets_are_read_from_where_they_are(tmp_path, monkeypatch):
    (tmp_path / "name").write_text("  secret\n")
    assert CredentialSource(file=str(tmp_path / "name")).read() == "secret"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigurationError, match="CREDENTIALS_DIRECTORY is not set"):
        CredentialSource(credential="name").read()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert CredentialSource(credential="name").read() == "secret"
    with pytest.raises(ConfigurationError, match="other: No such file"):
        CredentialSource(credential="other").read()
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="binary: not text"):
        CredentialSource(credential="binary").read()


def test_a_mirror_has_two_sides(load):
    mirror = load("""
        [backend.m]
        type = "mirror"
        acknowledge = "first"
        [backend.m.first]
        type = "filesystem"
        root = "/a"
        [backend.m.second]
        type = "memory"
    """).backend["m"]
    assert mirror == MirrorConfig(
        first=FilesystemConfig(root="/a"), second=MemoryConfig(), acknowledge="first"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "backend.m.first: is missing"),
        ("first = { type = 'mirror' }", "backend.m.first: type is 'mirror', must be one of file"),
        ("first = { type = 'filesystem', root = '' }", "backend.m.first.root: must not be empty"),
        ("first = { type = 'filesystem' }", "backend.m.first.root: is missing"),
        ("first = { type = 'objectstore', url = 'x' }", "backend.m.first.url: is 'x', must be"),
        ("first = { type = 'memory' }\nacknowledge = 'neither'", "backend.m.acknowledge: "),
        ("first = { type = 'memory' }\ncompare_interval_s = 1", "backend.m.compare_interval_s: is"),
        ("first = { type = 'memory', x = 1 }", "backend.m.first: unknown key 'x'"),
    ],
)
def test_what_is_wrong_with_a_mirror_is_named(load, text, problem):
    text = f"[backend.m]\ntype = 'mirror'\nsecond = {{ type = 'memory' }}\n{text}"
    problems = problems_of(load, text)
    assert any(one.startswith(problem) for one in problems), problems
