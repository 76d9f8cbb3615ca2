"""What deploy/ and docker-compose.yml say fits the code: services, ports, files, metrics.

No engine or cluster is asked: this finds what was forgotten, not whether a container starts.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from loom.kit import rpc
from loomos.embedded import provision, services
from loomos.telemetry import main as telemetry

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MEASURING = (rpc, telemetry)
"""The modules that define metrics: imported, so that the registry knows them."""
SCRAPED = {"up"}
PREPARING = {"keys", "renew", "stores", "postgres", "collector"}
VARIABLE = re.compile(r"\bLOOMOS_[A-Z_]+")


def parsed(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return parsed("docker-compose.yml")


def brokers(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in compose["services"].items() if name.startswith("kafka-")}


def test_compose_runs_every_service_in_three_lines(compose: dict[str, Any]) -> None:
    named = set(compose["services"]) - PREPARING - set(brokers(compose))
    assert named == set(services.ALL)
    for name in services.ALL:
        service = compose["services"][name]
        assert service["command"] == [name]
        own = {key for key, value in service.items() if compose["x-service"].get(key) != value}
        assert own <= {"command", "ports"}, f"{name} says more than its name and its doors"


def test_a_container_listens_where_the_edges_are_looked_for(compose: dict[str, Any]) -> None:
    script = compose["x-service"]["entrypoint"][-1]
    assert f"LOOMOS_LISTEN=$$0:{provision.PORT}" in script


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


def test_compose_has_no_password_of_its_own(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if "PASSWORD" in f"{variable} {value}":
                assert "${LOOMOS_POSTGRES_PASSWORD:?" in value, f"{name}: {variable}"


def test_three_brokers_differ_in_their_names_only(compose: dict[str, Any]) -> None:
    found = brokers(compose)
    assert compose["services"]["keys"]["command"] == ["keys", *found]
    written = {json.dumps(one).replace(name, "NAME") for name, one in found.items()}
    for number, (name, one) in enumerate(found.items(), start=1):
        assert one["environment"]["KAFKA_NODE_ID"] == number
        assert one.get("profiles") == (None if name == "kafka-1" else ["ha"])
    assert len(written) == len(found), "each has a number of its own"
    given = dict(
        line.split("=", 1)
        for line in (DEPLOY / "ha.env").read_text().splitlines()
        if not line.startswith("#")
    )
    hosts = [f"{name}.broker.loomos" for name in found]
    assert given["LOOMOS_BROKERS"] == ",".join(f"{host}:9093" for host in hosts)
    assert given["LOOMOS_VOTERS"] == ",".join(
        f"{number}@{host}:9094" for number, host in enumerate(hosts, start=1)
    )


def test_a_broker_lets_nobody_in_unnamed(compose: dict[str, Any]) -> None:
    settings = compose["x-broker"]["environment"]
    assert settings["KAFKA_SSL_CLIENT_AUTH"] == "required"
    assert settings["KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND"] == "false"
    assert set(settings["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")) == {
        "SERVICES:SSL",
        "CONTROLLER:SSL",
    }
    rules = settings["KAFKA_SSL_PRINCIPAL_MAPPING_RULES"].replace("$$", "$")
    assert rules.endswith("RULE:^.*$/nobody/") and " " not in rules


def test_the_chart_knows_every_service() -> None:
    values = parsed("deploy/chart/values.yaml")
    assert set(values["services"]) == set(services.ALL)
    chart = parsed("deploy/chart/Chart.yaml")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and chart["appVersion"] == version[1]
    assert values["image"].endswith(f":{version[1]}")


def test_the_chart_is_one_template_with_all_its_values() -> None:
    templates = list((DEPLOY / "chart" / "templates").iterdir())
    assert [path.name for path in templates] == ["loomos.yaml"]
    text = templates[0].read_text()
    opened = len(re.findall(r"{{-? *(?:if|range|with)\b", text))
    assert opened == len(re.findall(r"{{-? *end\b", text))
    values = parsed("deploy/chart/values.yaml")
    for used in re.findall(r"\$?\.Values\.([A-Za-z.]+)", text):
        found: Any = values
        for part in used.split("."):
            assert part in found, f"{used} has no value"
            found = found[part]
    assert f":{provision.PORT}" in text


def test_the_collector_scrapes_every_service(compose: dict[str, Any]) -> None:
    settings = parsed("deploy/otel.yaml")
    (scrape,) = settings["receivers"]["prometheus"]["config"]["scrape_configs"]
    (targets,) = scrape["static_configs"]
    assert targets["targets"] == [f"{name}:9464" for name in services.ALL]
    script = compose["x-service"]["entrypoint"][-1]
    assert "LOOMOS_METRICS_LISTEN=$$0:9464" in script
    for pipeline in settings["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(settings[kind])


def expressions() -> list[tuple[str, str]]:
    groups = parsed("deploy/alerts.yaml")["groups"]
    found = [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]
    board = json.loads((DEPLOY / "dashboards" / "loomos.json").read_text())
    return found + [(p["title"], t["expr"]) for p in board["panels"] for t in p["targets"]]


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_only_what_is_measured_is_watched(title: str, expression: str) -> None:
    known = SCRAPED | {
        name
        for metric in REGISTRY.collect()
        for name in (metric.name, *(f"{metric.name}_{part}" for part in SUFFIXES[metric.type]))
    }
    assert expression.count("(") == expression.count(")")
    used = set(re.findall(r"\b(?:loomos|process)_[a-z_]+|\bup\b", expression))
    assert used, f"{title} watches nothing"
    assert used <= known, f"{title} watches what nobody measures: {used - known}"


SUFFIXES: dict[str, tuple[str, ...]] = {
    "counter": ("total", "created"),
    "histogram": ("bucket", "count", "sum", "created"),
    "gauge": (),
    "info": ("info",),
}


def test_every_variable_in_deploy_is_one_that_the_code_reads() -> None:
    files = [ROOT / "docker-compose.yml", *(f for f in DEPLOY.rglob("*") if f.is_file())]
    used = {name for file in files for name in VARIABLE.findall(file.read_text())}
    sources = [*(ROOT / "libs" / "loom").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    read = {name for file in sources for name in VARIABLE.findall(file.read_text())}
    here = {"LOOMOS_BROKERS", "LOOMOS_VOTERS", "LOOMOS_REPLICAS", "LOOMOS_POSTGRES_PASSWORD"}
    assert used <= read | here


def test_the_image_runs_what_the_project_installs() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["loomos"]' in text and "\nUSER loomos\n" in text
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.M)
    assert all((ROOT / name).exists() for name in copied)
    assert importlib.util.find_spec("loomos.cli.main") is not None
