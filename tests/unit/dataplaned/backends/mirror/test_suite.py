"""A mirror is a backend: it keeps what every backend promises."""

import pytest

from dataplaned.backends.suite import BackendSuite


@pytest.mark.slow
class TestMirror(BackendSuite):
    @pytest.fixture
    def backend(self, mirror):
        return mirror

    async def replace(self, backend, data, stored):
        await backend.mender.drain(1)
        for side in (backend.first, backend.second):
            side.replace(data, stored)
