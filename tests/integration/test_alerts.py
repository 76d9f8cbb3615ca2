"""Alerts on the real stores: a failure in production, who is told, and what is tried again."""

import asyncio
import base64
import hmac

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from test_notary_service import caller, eventually, write
from tests.alert_world import ACME, certificate, place, relay, world
from tests.appending import origin

from loom.kit.errors import Failure
from loom.log import envelope
from loom.log.topics import connection
from loom.v1 import deployment_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import query
from loomos.loomdb.plugins import outbound
from loomos.loomdb.stream import watch_alerts

__all__ = ["certificate", "place", "relay", "world"]

pytestmark = [pytest.mark.bus, pytest.mark.db]
KEY = "a-key-of-more-than-sixteen-bytes"
ROUTING_KEY = "0123456789abcdef0123456789abcdef"


async def test_a_production_failure_is_told_and_tried_again(world, place, relay, platform):
    base = f"https://127.0.0.1:{place.port}"
    await world.target("hook", "webhook", f"{base}/hook", KEY)
    await world.target("chat", "slack", f"https://localhost:{place.port}/slack")
    await world.target("pager", "pagerduty", "", ROUTING_KEY)
    await world.target("mail", "email", "ann@example.org")
    await world.rule(
        "production-failed", ["model.deployment.*"],
        ["payload.environment = production", "payload.status = failed"],
        ["hook", "chat", "pager", "mail"], retry=3,
    )  # fmt: skip
    staging = {"model_name": "m", "environment": "staging", "status": "failed"}
    await world.append("model.deployment.complete", staging)
    failed = staging | {"environment": "production", "job_id": "deploy-7"}
    kind = "model.deployment.complete"
    appended = await world.append(kind, failed, stream="model-m", correlation_id="story-1")

    (alert,) = await eventually(world.alerts)
    assert alert.raised.severity == pb.ALERT_SEVERITY_CRITICAL
    assert alert.raised.retry.failed_event_id == appended.event_id

    async def chain():
        async with world.shell.db() as db:
            request = pb.WalkCausesRequest(
                organisation_id="acme",
                event_id=alert.raised.cause.event_id,
                direction=pb.CAUSAL_DIRECTION_EFFECTS,
            )
            walked = await query.walk_causes(request, ACME, db)
        found = [(one.depth, one.event.type) for one in walked.entries]
        return found if len(found) == 7 else None

    found = await eventually(chain)
    assert found[:2] == [(0, kind), (1, "alert.raised")]
    assert sorted(found[2:]) == [(2, "job.retry.requested")] + [(2, "notification.delivered")] * 4
    ((retry, *_),) = [await world.events("job.retry")]
    assert retry["payload"]["payload"]["job_id"] == "deploy-7"
    assert retry["correlation_id"] == "story-1" and retry["causation_id"] == alert.event_id

    (headers, event) = place.at("/hook")[0]
    body = next(raw for path, _, raw in place.told if path == "/hook")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.digest(KEY.encode(), signed, "sha256")).decode()
    # The server's headers are in lower case, base64 is not.
    assert headers["webhook-signature"] == f"v1,{wanted}".lower()
    assert (event["id"], event["type"]) == (alert.event_id, "alert.raised")
    assert "blocks" in place.at("/slack")[0][1]
    pager = place.at("/pagerduty")[0][1]
    assert (pager["routing_key"], pager["event_action"]) == (ROUTING_KEY, "trigger")
    assert pager["dedup_key"] == alert.raised.alert_id
    ((secure, to, content),) = relay.messages
    assert secure and to == ["ann@example.org"] and b"production-failed" in content

    alert_id = alert.raised.alert_id
    request = pb.ResolveAlertRequest(organisation_id="acme", alert_id=alert_id, reason="fixed")
    await world.tell(request)

    async def resolved():
        return [one for _, one in place.at("/pagerduty") if one["event_action"] == "resolve"]

    assert (await eventually(resolved))[0]["dedup_key"] == alert_id

    async with world.shell.db() as db:
        rows = await (await db.execute("SELECT payload::text AS text FROM audit_events")).fetchall()
    for secret in (KEY, ROUTING_KEY, "ann@example.org", "/slack"):
        assert not any(secret in row["text"] for row in rows), secret
    await copied(platform, alert.event_id)


async def copied(platform, event_id):
    """`loomos.alerts` has the event, once read from its beginning."""
    consumer = AIOKafkaConsumer(**connection(platform.administrator), group_id=None)
    await consumer.start()
    try:
        partition = TopicPartition("loomos.alerts", 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records = (await consumer.getmany(timeout_ms=5000))[partition]
        ids = [dict(record.headers)["ce_id"].decode() for record in records]
        assert event_id in ids
    finally:
        await consumer.stop()


async def test_a_failed_deployment_of_ours_is_deployed_again(world, platform):
    await world.rule(
        "ours", ["deployment.failed"], ["payload.environment = ENVIRONMENT_PRODUCTION"], retry=1,
        cooldown=1,
    )  # fmt: skip
    model = f"model-acme.vision-{'a' * 20}"
    deployment = f"deployment-acme.vision-{'b' * 20}"
    event = deployment_pb2.DeploymentFailed(
        deployment_id=deployment, revision=1, reason="no memory", model_id=model, version=3,
        environment=deployment_pb2.ENVIRONMENT_PRODUCTION,
    )  # fmt: skip
    drafts = envelope.draft([event], [1], origin("deployment", "acme.vision", story="story-d"))
    await write(platform.administrator, "loomos.deployment", [drafts])

    async def deployed():
        return world.deployed

    ((request, _, causation),) = await eventually(deployed)
    assert (request.model_id, request.version) == (model, 3)
    assert request.environment == deployment_pb2.ENVIRONMENT_PRODUCTION
    (alert,) = await eventually(world.alerts)
    assert causation == alert.event_id and alert.raised.project_id == "acme.vision"


async def test_a_failed_retry_is_tried_again_after_the_cool_down_and_no_more_than_allowed(world):
    await world.rule("flaky", ["model.training.failed"], retry=2, cooldown=2)
    for job in ("j-1", "j-1", "j-2"):
        await world.append(
            "model.training.failed", {"model_name": "m", "error": "x", "job_id": job}
        )

    async def asked():
        found = [one["payload"]["payload"] for one in await world.events("job.retry")]
        return found if len(found) == 3 else None

    found = sorted((one["job_id"], one["attempt"]) for one in await eventually(asked))
    assert found == [("j-1", 1), ("j-1", 2), ("j-2", 1)]
    await asyncio.sleep(2)
    await world.append("model.training.failed", {"model_name": "m", "error": "x", "job_id": "j-1"})

    async def exhausted():
        return [one for one in await world.alerts() if one.raised.retries_exhausted]

    await eventually(exhausted)
    assert len(await world.events("job.retry")) == 3


async def test_an_unruly_place_harms_nobody(world, place, monkeypatch):
    monkeypatch.setattr(outbound, "SECONDS", 0.5)
    base = f"https://127.0.0.1:{place.port}"
    await world.target("hangs", "webhook", f"{base}/hang", KEY)
    await world.target("works", "webhook", f"{base}/ok", KEY)
    await world.rule("any", ["job.completed"], (), ["hangs", "works"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})

    async def ended():
        (alert, *_) = await world.alerts() or [pb.Alert()]
        found = {one.status: one for one in alert.notifications}
        return found if len(found) == 2 and "pending" not in found else None

    found = await eventually(ended)
    assert found["delivered"].attempts == 1
    assert found["failed"].attempts == 6 and "no answer" in found["failed"].reason
    ids = {headers["webhook-id"] for headers, _ in place.at("/hang")}
    assert len(place.at("/hang")) == 6 and len(ids) == 1


async def test_a_redirect_is_not_followed(world, place):
    place.answers.append(b"HTTP/1.1 307 T\r\nlocation: https://127.0.0.1:1/\r\n")
    await world.target("moved", "webhook", f"https://127.0.0.1:{place.port}/moved", KEY)
    await world.rule("any", ["job.completed"], (), ["moved"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})

    async def failed():
        found = await world.events("notification.failed")
        return [one["payload"] for one in found]

    (payload,) = await eventually(failed)
    assert "redirects are not followed" in payload["reason"] and payload["attempts"] == 1


async def test_a_storm_raises_once_a_group_and_a_second_reader_nothing_more(world):
    await world.rule(
        "storm", ["job.completed"], (), count_min=3, window_seconds=60, group_by="payload.status"
    )
    for number in range(12):
        status = "failed" if number % 2 else "lost"
        await world.append("job.completed", {"job_id": f"j-{number}", "status": status})

    async def both():
        found = await world.alerts()
        return found if len(found) == 2 else None

    found = await eventually(both)
    assert sorted(one.raised.group for one in found) == ["failed", "lost"]
    assert all(len(one.raised.evidence_ids) == 3 for one in found)
    again = asyncio.create_task(watch_alerts(world.shell))

    async def counted():
        return [one.suppressed for one in await world.alerts()] == [3, 3]

    await eventually(counted)
    await world.append("job.completed", {"job_id": "j-last", "status": "failed"})
    await asyncio.sleep(1.5)
    assert len(await world.events("alert.raised")) == 2
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_silence_is_raised_and_ends_with_the_next_event(world):
    await world.rule("silence", ["job.completed"], (), absent_seconds=2, cooldown=1)
    (alert,) = await eventually(world.alerts)
    assert alert.raised.absence and alert.raised.summary == "silence: nothing for 2 s"
    await world.append("job.completed", {"job_id": "j", "status": "ok"})

    async def over():
        return await world.alerts(status=pb.ALERT_STATUS_RESOLVED)

    (ended,) = await eventually(over)
    assert ended.reason == "events came again" and ended.resolved_by == "service:loomdb"


async def test_bad_targets_and_others_rules_are_refused(world):
    for plugin, address in (
        ("webhook", "https://127.0.0.1:1/"),
        ("webhook", "http://example.org/"),
        ("slack", "https://169.254.169.254/"),
        ("email", "a@b.org\nBcc: c@d.org"),
        ("carrier-pigeon", "x"),
    ):
        with pytest.raises(Failure) as refused:
            await world.target("bad", plugin, address, KEY if plugin == "webhook" else "")
        assert refused.value.code == "INVALID_ARGUMENT"
    receipt = await world.rule("mine", ["job.completed"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})
    (alert,) = await eventually(world.alerts)
    other = caller("other")
    async with world.shell.db() as db:
        asked = pb.ListAlertsRequest(organisation_id="acme")
        assert not (await query.list_alerts(asked, other, db)).alerts
        with pytest.raises(Exception, match="no alert rule"):
            request = pb.GetAlertRuleRequest(organisation_id="acme", rule_id=receipt.id)
            await query.get_alert_rule(request, other, db)
    with pytest.raises(Failure, match="no alert"):
        foreign = pb.ResolveAlertRequest(organisation_id="other", alert_id=alert.raised.alert_id)
        await world.tell(foreign)
