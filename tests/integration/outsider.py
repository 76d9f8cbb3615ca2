"""An outsider: reads a feed with clients that are not ours and prints what it got, as JSON lines.

Run in an environment of its own: `python outsider.py FOLDER GROUP COUNT [OTHER_TOPIC]`, with the
distributions kafka-python, confluent-kafka and cloudevents. FOLDER is what `feeds enable` made.
"""

import base64
import json
import sys
from pathlib import Path

from cloudevents.core.bindings.kafka import (  # pyright: ignore[reportMissingImports]
    KafkaMessage,
    from_binary_event,
)
from cloudevents.core.formats.json import (  # pyright: ignore[reportMissingImports]
    JSONFormat,
)
from confluent_kafka.admin import AdminClient  # pyright: ignore[reportMissingImports]
from kafka import KafkaConsumer  # pyright: ignore[reportMissingImports]


def main(folder: Path, group: str, count: int, other_topic: str) -> None:
    """Read so many events, then try a topic that is none of ours."""
    feed = json.loads((folder / "feed.json").read_text())
    if other_topic:
        print(json.dumps(refusal(folder, feed, other_topic)), flush=True)
        return
    consumer = KafkaConsumer(
        bootstrap_servers=feed["bootstrap"],
        security_protocol="SSL",
        ssl_cafile=str(folder / "ca.crt"),
        ssl_certfile=str(folder / "tls.crt"),
        ssl_keyfile=str(folder / "tls.key"),
        group_id=feed["group_prefix"] + group if group else None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=5_000,
    )
    consumer.subscribe([feed["topic"]])
    seen = 0
    try:
        for record in consumer if count else ():
            event = from_binary_event(
                KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat()
            )
            told = {
                "offset": record.offset,
                "key": base64.b64encode(record.key or b"").decode(),
                "attributes": event.get_attributes(),
                "data": event.get_data(),
            }
            print(json.dumps(told, default=str), flush=True)
            seen += 1
            if seen == count:
                break
    finally:
        consumer.close()


def refusal(folder: Path, feed: dict[str, str], topic: str) -> dict[str, str]:
    """What the broker says of a topic to a client that tells: it is librdkafka's."""
    client = AdminClient(
        {
            "bootstrap.servers": feed["bootstrap"],
            "security.protocol": "ssl",
            "ssl.ca.location": str(folder / "ca.crt"),
            "ssl.certificate.location": str(folder / "tls.crt"),
            "ssl.key.location": str(folder / "tls.key"),
        }
    )
    found = client.list_topics(topic, timeout=20).topics[topic]
    return {"refused": found.error.name()} if found.error else {"read": topic}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), (sys.argv[4:] or [""])[0])
