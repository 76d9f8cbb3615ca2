"""Settings: files under variables, and one clear line for each bad value."""

import json
from pathlib import Path

import pytest

from loom.kit.config import InvalidSetting, Settings


def load(home: Path, **variables: str) -> Settings:
    return Settings.load("scheduler", {"LOOMOS_HOME": str(home), **variables})


def test_what_is_not_given_has_a_default_that_opens_nothing(tmp_path: Path) -> None:
    settings = Settings.load("scheduler", {"HOME": str(tmp_path)})
    assert settings.home == tmp_path / ".local/state/loomos"
    assert settings.credentials == settings.home / "credentials/scheduler"
    assert settings.listen == settings.metrics_listen == "127.0.0.1:0"
    assert (settings.kafka, settings.postgres, settings.kafka_password) == ("", "", "")
    assert (settings.partitions, settings.cluster, settings.log_level) == (1, "local", "info")
    state = Settings.load("scheduler", {"XDG_STATE_HOME": str(tmp_path)})
    assert state.home == tmp_path / "loomos"


def test_files_fill_in_and_variables_win(tmp_path: Path) -> None:
    folder = tmp_path / "credentials/scheduler"
    folder.mkdir(parents=True)
    (folder / "kafka.user").write_text("scheduler\nsesame\n")
    (folder / "postgres.dsn").write_text("postgresql://s:p@127.0.0.1/loomos\n")
    (tmp_path / "state.json").write_text(
        json.dumps({"version": 1, "kafka": {"bootstrap": "127.0.0.1:9092"}})
    )
    settings = load(tmp_path)
    assert (settings.kafka_user, settings.kafka_password) == ("scheduler", "sesame")
    assert settings.postgres == "postgresql://s:p@127.0.0.1/loomos"
    assert (settings.kafka, settings.kafka_security) == ("127.0.0.1:9092", "SASL_PLAINTEXT")
    other = load(tmp_path, LOOMOS_KAFKA="kafka.example:9093", LOOMOS_POSTGRES="host=db")
    assert (other.kafka, other.kafka_security, other.postgres) == (
        "kafka.example:9093",
        "SSL",
        "host=db",
    )


def test_secrets_do_not_show(tmp_path: Path) -> None:
    settings = load(tmp_path, LOOMOS_POSTGRES="postgresql://s:sesame@h/d", LOOMOS_TOKEN="sesame")
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOOMOS_KAFKA", "nowhere"),
        ("LOOMOS_KAFKA", "host:0"),
        ("LOOMOS_KAFKA", "a:1,b"),
        ("LOOMOS_KAFKA_SECURITY", "PLAINTEXT"),
        ("LOOMOS_POSTGRES", "here"),
        ("LOOMOS_LISTEN", "127.0.0.1:70000"),
        ("LOOMOS_LISTEN", "127.0.0.1"),
        ("LOOMOS_METRICS_LISTEN", ":9"),
        ("LOOMOS_GATEWAY_LISTEN", "a b:1"),
        ("LOOMOS_PARTITIONS", "0"),
        ("LOOMOS_PARTITIONS", "1025"),
        ("LOOMOS_PARTITIONS", "many"),
        ("LOOMOS_PARTITIONS", "-1"),
        ("LOOMOS_CLUSTER", "No Such"),
        ("LOOMOS_OTLP", "collector:4317"),
        ("LOOMOS_LOG_LEVEL", "loud"),
        ("LOOMOS_HOME", "/tmp\n/x"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(
    tmp_path: Path, variable: str, value: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        load(tmp_path, **{variable: value})
    told = str(refused.value)
    assert told.startswith(variable)
    assert "\n" not in told


def test_passwords_do_not_cross_a_network_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="loopback"):
        load(tmp_path, LOOMOS_KAFKA="10.0.0.1:9092", LOOMOS_KAFKA_SECURITY="SASL_PLAINTEXT")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 2}', '{"version": 1, "kafka": 5}'])
def test_a_state_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(InvalidSetting, match=r"state\.json"):
        load(tmp_path)


def test_a_half_written_login_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "credentials/scheduler"
    folder.mkdir(parents=True)
    (folder / "kafka.user").write_text("scheduler\n")
    with pytest.raises(InvalidSetting, match=r"kafka\.user"):
        load(tmp_path)
