import os
import socket
import stat

import pytest
import trio

from dataplaned.listening import SocketInUseError, listen


@pytest.fixture
def path(short_path):
    return str(short_path / "s")


def connect(path):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    return peer


def leave_stale_socket(path):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)


@pytest.mark.trio
async def test_a_connection_arrives_and_the_name_goes_at_the_end(path):
    with listen(path) as listener, connect(path) as peer, trio.fail_after(5):
        accepted, _ = await listener.accept()
        peer.send(b"x")
        assert await accepted.recv(1) == b"x"
        accepted.close()
    assert not os.path.lexists(path)


def test_the_socket_is_for_this_user_only_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with listen(path):
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_missing_directory_is_made_for_this_user_only(short_path):
    path = short_path / "run" / "s"
    with listen(str(path)):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_socket_that_nobody_listens_on_is_replaced(path):
    leave_stale_socket(path)
    with listen(path):
        connect(path).close()
    assert not os.path.lexists(path)


def test_a_socket_that_somebody_listens_on_is_left_alone(path):
    with listen(path):
        with (
            pytest.raises(SocketInUseError, match=f"in use by process {os.getpid()}"),
            listen(path),
        ):
            pass
        connect(path).close()


def test_a_socket_whose_queue_is_full_is_in_use(path):
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        with connect(path), pytest.raises(SocketInUseError), listen(path):
            pass


def test_what_is_no_socket_is_left_alone(path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(SocketInUseError, match="is there and is not a socket"), listen(path):
        pass
    with open(path) as file:
        assert file.read() == "precious"


def test_a_link_is_not_followed(path, short_path):
    leave_stale_socket(str(short_path / "elsewhere"))
    os.symlink("elsewhere", path)
    with pytest.raises(SocketInUseError), listen(path):
        pass
    assert (short_path / "elsewhere").exists()


def test_a_socket_that_somebody_put_there_meanwhile_is_left_alone(path):
    with listen(path):
        os.unlink(path)
        leave_stale_socket(path)
    assert os.path.lexists(path)


def test_a_name_that_is_gone_at_the_end_is_no_error(path):
    with listen(path):
        os.unlink(path)


def test_a_place_that_cannot_be_used_is_an_error_of_the_system(short_path):
    (short_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"exists|Not a dir"),
        listen(str(short_path / "file/s")),
    ):
        pass


def test_the_name_goes_when_the_body_fails(path):
    with pytest.raises(ZeroDivisionError), listen(path):
        _ = 1 // 0
    assert not os.path.lexists(path)
