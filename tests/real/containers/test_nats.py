"""The image of NATS by itself: killed while the log is written to, it keeps what it acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.log import Recorded
from services._runtime.settings import Retention
from services._runtime.tasks import end
from tests.real.containers.engine import MARKS
from tests.real.containers.installation import Installation
from tests.real.machine import free_port
from tests.support.writer import Writer, reconnecting

pytestmark = MARKS
SUBJECTS = Subjects()
CONFIGURATION = """
listen: "0.0.0.0:4222"
jetstream { store_dir: "/var/lib/farlab/jetstream", sync_interval: always, max_file_store: 4GB }
"""


async def test_what_was_acknowledged_is_there_after_the_container_was_killed(
    system: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)  # its image comes from a registry
    if host := system.engine.environment.get("DOCKER_HOST"):
        monkeypatch.setenv("DOCKER_HOST", host)
    file, port = tmp_path / "nats.conf", free_port()
    file.write_text(CONFIGURATION)
    container = DockerContainer("farlab/nats", command="-c /etc/nats.conf")
    container.with_copy_into_container(file, "/etc/nats.conf", 0o644).with_bind_ports(4222, port)
    with container:
        log = await reconnecting([f"nats://127.0.0.1:{port}"], SUBJECTS)
        await topology.apply(log.js, SUBJECTS, Retention())
        seen: list[Recorded] = []
        following = await log.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
        writer = Writer(log, SUBJECTS)
        writing = asyncio.create_task(writer.write())
        try:
            for _ in range(2):
                await writer.more()
                await asyncio.to_thread(container.get_wrapped_container().kill)
                await asyncio.to_thread(container.get_wrapped_container().start)
            await writer.more()
            await writer.enough(writing, seen)
        finally:
            await end([writing])
            await following.close()
            await log.client.close()
