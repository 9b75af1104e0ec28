import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from .container import TOP, Container, copy_checkout, download_wheels, make_root


def install_commands() -> list[str]:
    """Give the README's commands for an installation."""
    text = (TOP / "README.md").read_text()
    section = text.partition("## Install on Debian 12\n")[2].partition("\n## ")[0]
    return re.findall(r"^    (.*)$", section, re.MULTILINE)


@pytest.fixture(scope="session")
def machine(
    require: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Container]:
    """A machine where the README's commands have installed the daemon, and three users.

    The container has no network: pip finds what it asks for in a directory, and apt-get finds
    everything installed.
    """
    require(os.geteuid() == 0, "root")
    for tool in ("systemd-nspawn", "debootstrap", "nsenter", "unshare"):
        require(shutil.which(tool) is not None, tool)
    root = tmp_path_factory.mktemp("machine") / "root"
    make_root(root)
    copy_checkout(root / "srv/checkout")
    download_wheels(root / "srv/wheels")
    shutil.copyfile(Path(__file__).parent / "load.py", root / "srv/load.py")
    (root / "srv/load.py").chmod(0o644)
    with Container(root) as container:
        environment = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels PIP_DISABLE_PIP_VERSION_CHECK=1"
        for command in install_commands():
            container.run(
                "sh", "-c", f"cd /srv/checkout && export {environment} && {command}", timeout=600
            )
        for name, groups in (
            ("alice", "dataplaned-clients"),
            ("olga", "dataplaned-admin"),
            ("mallory", ""),
        ):
            container.run("useradd", "-m", *(["-G", groups] if groups else []), name)
        yield container
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=False)
