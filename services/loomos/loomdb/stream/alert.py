"""Evaluates alert rules over the log: each rule is a reader of its own, with its maker's eyes.

1. A rule's place is stored behind what it has judged; after a restart it reads back as far as its
   window reaches, to know its groups again, and raises nothing for what it has judged.
2. Raising is a command whose id derives from the causing event: a replay, or a second instance,
   asks for the same alert, and `decide` raises it once.
3. What LoomDB says of alerts itself is no event that a rule could match: no rule feeds itself.
4. A rule that cannot be evaluated waits alone; what it found is never dropped for that.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from loom.kit.errors import Failure
from loom.kit.reactor import RETRIED
from loom.log.clock import now_us
from loom.log.reader import LogAway
from loom.store import Fenced, Store
from loom.v1 import deployment_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor as cursors
from loomos.loomdb.cursor import Vector
from loomos.loomdb.effect import alert as effect
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import selection, values_at
from loomos.loomdb.query.alert import last_raised, rules_on
from loomos.loomdb.query.place import AWAY, first_since
from loomos.loomdb.query.subscription import progress_name
from loomos.loomdb.sight import Rights
from loomos.loomdb.stream.alert_window import Crossing, Watch
from loomos.loomdb.stream.source import Source
from loomos.loomdb.stream.tail import tail_of

__all__ = ["Evaluation", "watch_alerts"]

LOOK_S = 1.0
RETRY_S = 2.0
STORE_S = 5.0
PULL = 500
GROUP_MAX = 128
PLACE = ("*", 0)
OWN = ("alert.", "notification.", "notify.")
CORRELATION = re.compile(r"[A-Za-z0-9._:-]{1,64}")


async def watch_alerts(shell: Any) -> None:
    """Run a task for each rule of an organisation whose shard is owned here."""
    running: dict[tuple[str, int], asyncio.Task[None]] = {}
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                with contextlib.suppress(*AWAY):
                    await look(shell, running, tasks)
                await asyncio.sleep(LOOK_S)
    finally:
        await effect.stop(shell)


async def look(
    shell: Any, running: dict[tuple[str, int], asyncio.Task[None]], tasks: asyncio.TaskGroup
) -> None:
    """Begin and end tasks by the rules that there are now."""
    async with shell.db() as db:
        rows = await rules_on(db)
    wanted = {
        (row["rule_id"], row["version"]): row
        for row in rows
        if shell.ownership.owns(row["organisation_id"])
    }
    for key in [key for key in running if key not in wanted or running[key].done()]:
        task = running.pop(key)
        task.cancel()
        # A changed rule begins behind what its forerunner has judged.
        await asyncio.wait([task])
    for key, row in wanted.items():
        if key not in running:
            running[key] = tasks.create_task(one_rule(shell, row))


async def one_rule(shell: Any, row: dict[str, Any]) -> None:
    """Evaluate one rule until it is taken away."""
    while True:
        try:
            await Evaluation(shell, row).run()
        except Fenced:
            return
        except (Failure, LogAway, *AWAY) as error:
            shell.log.warning("an alert rule waits", rule=row["rule_id"], reason=str(error).strip())
        await asyncio.sleep(RETRY_S)


class Evaluation:
    """One rule on its way through the log."""

    def __init__(self, shell: Any, row: dict[str, Any]) -> None:
        self.shell = shell
        self.row = row
        self.rule_id, self.organisation = row["rule_id"], row["organisation_id"]
        self.spec = pb.AlertSpec.FromString(row["spec"])
        self.condition = self.spec.condition
        self.watch = Watch(self.spec)
        self.retries = self.spec.action == pb.ALERT_ACTION_RETRY
        self.owed: dict[str, Entry] = {}
        """By group, the newest failure that came during the cool-down: tried again behind it."""
        self.judged: Vector = {}
        """What is before this was judged when this reader began."""

    async def run(self) -> None:
        """Judge event by event, for ever; ends by raising."""
        shell, tail = self.shell, tail_of(self.shell)
        await tail.started()
        name = progress_name(self.rule_id)
        stored, epoch = await shell.store.claim_position(name, *PLACE, self.row["begins_at"])
        self.judged = cursors.parse(stored)[0]
        chosen = self.condition.selection
        wanted = selection(chosen.types, chosen.where, chosen.filter)
        rights = Rights(shell.authorizer, self.row["owner"], self.organisation)
        source = Source(shell, tail, wanted, rights, await self.remembered(stored))
        loop = asyncio.get_running_loop()
        store_at = loop.time() + STORE_S
        while True:
            found = await source.take(PULL)
            for entry in found:
                await self.judge(entry)
            if source.live and self.watch.absent_us:
                await self.judge_silence()
            if source.live and self.owed:
                await self.pay()
            cursor = source.cursor
            # What is owed is found again by reading it again.
            due = loop.time() >= store_at and not self.owed
            if cursor != stored and due and self.caught_up(source.vector):
                await self.tell_suppressed()
                async with shell.store.connection() as connection:
                    await Store.move_position(connection, name, *PLACE, (stored, cursor), epoch)
                stored, store_at = cursor, loop.time() + STORE_S
            await source.wait(LOOK_S)

    async def remembered(self, stored: str) -> Vector:
        """Where to begin so that the groups are known; the newest alerts of each."""
        async with self.shell.db() as db:
            await self.remember(db)
            if self.watch.absent_us and not self.condition.group_by:
                group = self.watch.group("")
                if not group.last_id:
                    group.last_us = self.row["created_at_us"]
                    group.last_id = self.row["created_event_id"]
            if stored == self.row["begins_at"]:
                return dict(self.judged)
            reached = await self.time_at(db)
            earlier = await first_since(reached - self.watch.lookback_us, db)
        return {
            place: min(offset, earlier.get(place, offset)) for place, offset in self.judged.items()
        }

    async def remember(self, db: Any) -> None:
        """Learn the newest alert of each group, where it is not known."""
        for row in await last_raised(self.rule_id, db):
            group = self.watch.group(row["grouped"])
            if group.alert_id == row["alert_id"]:
                continue
            self.watch.raised(row["grouped"], row["alert_id"], row["cause_id"], row["raised_at_us"])
            group.suppressed_to_us, group.cause_us = row["counted_to_us"], row["cause_at_us"]
            group.resolved = row["status"] == pb.ALERT_STATUS_RESOLVED
            if row["cause_at_us"] > group.last_us:
                group.last_us, group.last_id = row["cause_at_us"], row["cause_id"]

    async def time_at(self, db: Any) -> int:
        """The time of the newest event that was judged."""
        places = sorted(self.judged)
        found = await db.execute(
            "SELECT coalesce(max(e.at_us), 0) AS at_us "
            "FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS w(topic, partition, next), "
            "LATERAL (SELECT at_us FROM audit_events e WHERE e.topic = w.topic "
            "  AND e.partition = w.partition AND e.record_offset < w.next "
            "  ORDER BY e.record_offset DESC LIMIT 1) e",
            (
                [topic for topic, _ in places],
                [partition for _, partition in places],
                [self.judged[place] for place in places],
            ),
        )
        row = await found.fetchone()
        return int(row["at_us"])

    def caught_up(self, vector: Mapping[Any, int]) -> bool:
        """Whether all that was judged before this reader began is behind it."""
        return all(vector.get(place, 0) >= offset for place, offset in self.judged.items())

    async def judge(self, entry: Entry) -> None:
        """Take one event that fits into its group's window; raise what it crosses."""
        if entry.type.startswith(OWN) or entry.row["at_us"] < self.row["created_at_us"]:
            return
        name = self.group_of(entry)
        fresh = entry.offset >= self.judged.get(entry.place, 0)
        row = entry.row
        if fresh and self.watch.absent_us:
            await self.heard_again(name, row)
        crossing = self.watch.seen(name, row["at_us"], row["event_id"], fresh)
        if crossing is not None:
            self.owed.pop(name, None)
            await self.raise_alert(crossing, entry)
        elif fresh and self.retries and self.cooling(name, row):
            self.owed[name] = entry

    def cooling(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether an event came during its group's cool-down and is not what began it."""
        group = self.watch.groups[name]
        return (
            bool(group.alert_id)
            and row["event_id"] != group.cause_id
            and group.cause_us < row["at_us"] < group.raised_us + self.watch.cooldown_us
        )

    async def pay(self) -> None:
        """Raise what came during a cool-down that is over, unless it was overtaken."""
        for name, entry in list(self.owed.items()):
            group = self.watch.group(name)
            if now_us() < group.raised_us + self.watch.cooldown_us:
                continue
            del self.owed[name]
            if await self.newest(entry):
                await self.raise_alert(Crossing(name, [entry.row["event_id"]], 1), entry)

    async def newest(self, entry: Entry) -> bool:
        """Whether nothing happened to a deployment of ours since; others look for themselves."""
        if entry.place[0] != "loomos.deployment":
            return True
        row = entry.row
        async with self.shell.db() as db:
            found = await db.execute(
                "SELECT 1 FROM audit_events WHERE topic = %s AND partition = %s AND stream = %s "
                "AND version > %s LIMIT 1",
                (*entry.place, row["stream"], row["version"]),
            )
            return await found.fetchone() is None

    def group_of(self, entry: Entry) -> str:
        """The group's value of an event; empty where it has none."""
        if not self.condition.group_by:
            # What is tried again has a cool-down of its own.
            retry = retry_of(entry) if self.retries else None
            return retry.thing_id if retry is not None else ""
        for value in values_at(entry.document, self.condition.group_by.split(".")):
            value = value[-1] if isinstance(value, tuple) else value
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            return "".join(c if c.isprintable() else " " for c in text)[:GROUP_MAX]
        return ""

    async def raise_alert(self, crossing: Crossing, entry: Entry) -> None:
        """Ask for the alert of an event."""
        request = pb.RaiseAlertRequest(
            organisation_id=self.organisation,
            rule_id=self.rule_id,
            group=crossing.group,
            cause=cause_of(entry),
            evidence_ids=crossing.evidence_ids,
            matches=crossing.matches,
            retry=retry_of(entry) if self.retries else None,
        )
        await self.tell_suppressed()
        receipt = await self.tell(request, entry.row)
        await self.learn(crossing.group, receipt, request.cause)

    async def judge_silence(self) -> None:
        """Ask for the alerts of groups that were silent too long."""
        for name in self.watch.silent(now_us()):
            group = self.watch.groups[name]
            cause = pb.AlertCause(event_id=group.last_id, at_us=group.last_us)
            request = pb.RaiseAlertRequest(
                organisation_id=self.organisation, rule_id=self.rule_id, group=name, cause=cause
            )
            receipt = await self.tell(request, {"event_id": group.last_id})
            await self.learn(name, receipt, cause)

    async def heard_again(self, name: str, row: Mapping[str, Any]) -> None:
        """End a silence: its alert is over."""
        group = self.watch.groups.get(name)
        if group is None or not group.alert_id or group.resolved or row["at_us"] < group.raised_us:
            return
        group.resolved = True
        request = pb.ResolveAlertRequest(
            organisation_id=self.organisation,
            alert_id=group.alert_id,
            reason="events came again",
        )
        await self.tell(request, row)

    async def learn(self, name: str, receipt: Any, cause: pb.AlertCause) -> None:
        """Remember the alert; where none was raised the group's last one is too young."""
        at_us = now_us() if self.watch.absent_us or self.retries else cause.at_us
        if receipt is not None and receipt.id.startswith("alert-"):
            self.watch.raised(name, receipt.id, cause.event_id, at_us)
            self.watch.group(name).cause_us = cause.at_us
        elif receipt is not None:
            self.watch.group(name).cause_id = cause.event_id
            async with self.shell.db() as db:
                await self.remember(db)

    async def tell_suppressed(self) -> None:
        """Have it written how often alerts would have been raised again."""
        for group, count in self.watch.suppressions():
            request = pb.ReportAlertsSuppressedRequest(
                organisation_id=self.organisation,
                alert_id=group.alert_id,
                count=count,
                up_to_us=group.suppressed_to_us,
            )
            await self.tell(request, {"event_id": group.last_id})

    async def tell(self, request: Any, row: Mapping[str, Any]) -> Any:
        """Have a command decided, however long it takes; None where it was refused."""
        kind = request.DESCRIPTOR.name
        key = f"{kind}\0{self.rule_id}\0{getattr(request, 'group', '')}"
        story = str(row.get("correlation_id", ""))
        while True:
            try:
                return await self.shell.tell(
                    request,
                    key=key,
                    correlation_id=story if CORRELATION.fullmatch(story) else "",
                    causation_id=row["event_id"],
                )
            except Failure as failure:
                if failure.code not in RETRIED:
                    self.shell.log.warning("an alert was refused", reason=failure.message)
                    return None
            await asyncio.sleep(RETRY_S)


def cause_of(entry: Entry) -> pb.AlertCause:
    """An event as an alert names it."""
    row = entry.row
    stream = row["stream"].partition("/")[2] if entry.users else row["stream"]
    return pb.AlertCause(
        event_id=row["event_id"],
        type=entry.type,
        stream=stream,
        at_us=row["at_us"],
        project_id=entry.project,
    )


def retry_of(entry: Entry) -> pb.AlertRetry | None:
    """What could be tried again of an event: a deployment, or what a user's event is about."""
    payload = entry.row["payload"]
    if entry.type == "deployment.failed" and entry.place[0] == "loomos.deployment":
        if not payload.get("model_id"):
            return None
        return pb.AlertRetry(
            thing_id=payload["deployment_id"],
            model_id=payload["model_id"],
            version=int(payload["version"]),
            environment=environment_of(payload),
        )
    if not entry.users:
        return None
    content = payload["payload"]
    thing = content.get("job_id") if isinstance(content, dict) else None
    thing = thing if isinstance(thing, str) and thing else cause_of(entry).stream
    return pb.AlertRetry(thing_id=thing[:GROUP_MAX], failed_event_id=payload["event_id"])


def environment_of(payload: Mapping[str, Any]) -> int:
    """An environment's number, from what the index says of it."""
    return deployment_pb2.Environment.Value(payload.get("environment", "ENVIRONMENT_UNSPECIFIED"))
