"""The metrics door: a certificate of ours or the token, else nothing."""

import asyncio
import ssl
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, Counter
from test_rpc import settings

from loom.kit.observe import MetricsDoor


def trust(own: object) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(own.ca_certificate))  # type: ignore[attr-defined]


async def test_metrics_answer_those_who_may_see_them(tmp_path: Path) -> None:
    own = settings(tmp_path, "service", "scheduler")
    other = settings(tmp_path, "service", "prometheus")
    (own.credentials / "metrics.token").write_text("sesame\n")
    registry = CollectorRegistry()
    Counter("probes", "Probes made.", registry=registry).inc()
    async with MetricsDoor(own, registry) as door:
        url = f"https://{door.address}/metrics"
        with_leaf = trust(own)
        with_leaf.load_cert_chain(other.tls_certificate, other.tls_key)
        async with httpx.AsyncClient(verify=with_leaf) as http:
            answer = await http.get(url)
            assert answer.status_code == 200
            assert "probes_total 1.0" in answer.text
            assert (await http.get(url + "/x")).status_code == 404
        async with httpx.AsyncClient(verify=trust(own)) as http:
            assert (await http.get(url)).status_code == 401
            for value, status in (("Bearer sesame", 200), ("Bearer x", 401), ("sesame", 401)):
                answer = await http.get(url, headers={"Authorization": value})
                assert answer.status_code == status
        reader, writer = await asyncio.open_connection(*door.address.split(":"))
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()


async def test_without_a_token_file_no_token_is_good(tmp_path: Path) -> None:
    own = settings(tmp_path, "service", "scheduler")
    async with MetricsDoor(own) as door, httpx.AsyncClient(verify=trust(own)) as http:
        answer = await http.get(
            f"https://{door.address}/metrics", headers={"Authorization": "Bearer x"}
        )
        assert answer.status_code == 401
