"""The cluster is asked once for all who want to know how many copies it keeps."""

import asyncio

from loom.log import copies
from loom.log.copies import Copies, CopiesOf


async def test_who_asks_at_once_is_told_by_one_question(bus, topic, monkeypatch):
    asked = []

    class Counted(copies.AIOKafkaAdminClient):
        async def start(self) -> None:
            asked.append(self)
            await super().start()

    monkeypatch.setattr(copies, "AIOKafkaAdminClient", Counted)
    of = CopiesOf(bus, topic, 0)
    told = await asyncio.gather(*(of.now() for _ in range(20)))
    assert set(told) == {Copies(1, 1, 1)}
    assert len(asked) == 1
