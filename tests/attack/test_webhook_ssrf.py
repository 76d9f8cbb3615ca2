"""Addresses that a tenant names for alerts, as an attacker would: no way into our own network."""

import asyncio
import ipaddress
import socket

import pytest

from loomos.loomdb.plugins import Notice, Refused, Undelivered, email, outbound, webhook
from loomos.loomdb.plugins.outbound import checked_url, post, reachable

SMTP = {"LOOMOS_SMTP": "smtp://relay.example.org"}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "//example.org/",
        "https://",
        "https:///path",
        "https://user:pass@example.org/",
        "https://example.org@127.0.0.1/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00::1]/",
        "https://[ff02::1]/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://example.org:22/",
        "https://example.org:9092/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org/#fragment",
        "https://exa mple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://example.org/\r\nX-Injected: 1",
        "https://exämple.org/",
        "https://ⓔxample.org/",
        "https://" + "a" * 3000 + ".org/",
        "https://-bad-.org/",
        "https://.org/",
    ],
)  # fmt: skip
def test_such_a_url_is_refused_before_anything_is_resolved(url):
    with pytest.raises(Refused) as refused:
        checked_url(url, {})
    assert url not in str(refused.value)


def test_a_usual_url_is_taken():
    assert checked_url("https://hooks.example.org/a?b=c", {}) == ("hooks.example.org", 443)
    assert checked_url("https://8.8.8.8:8443/", {}) == ("8.8.8.8", 8443)


def test_only_what_the_operator_lists_is_let_through_inside():
    settings = {"LOOMOS_ALERT_ALLOW": "127.0.0.1:9443, hooks.internal:8080"}
    assert checked_url("https://127.0.0.1:9443/", settings) == ("127.0.0.1", 9443)
    assert checked_url("https://hooks.internal:8080/", settings) == ("hooks.internal", 8080)
    for url in ("https://127.0.0.1:9444/", "https://127.0.0.2:9443/", "http://127.0.0.1:9443/"):
        with pytest.raises(Refused):
            checked_url(url, settings)


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_an_address_of_the_internet_is_reachable(text):
    assert reachable(ipaddress.ip_address(text))


def answers(monkeypatch, *rounds):
    """Let names resolve to these addresses, a round for each question."""
    left = list(rounds)
    asked = []

    async def getaddrinfo(self, host, port, **kwargs):
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::ffff:10.0.0.1"])
async def test_a_name_that_leads_inside_is_not_called(monkeypatch, inside):
    answers(monkeypatch, [inside])
    with pytest.raises(Undelivered) as error:
        await post("https://rebind.example.org/", {}, b"{}", {})
    assert not error.value.again and "not on the internet" in error.value.reason


async def test_one_address_inside_among_others_is_one_too_many(monkeypatch):
    answers(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(Undelivered, match="not on the internet"):
        await post("https://rebind.example.org/", {}, b"{}", {})


async def test_a_name_is_resolved_once_and_the_checked_address_is_called(monkeypatch):
    asked = answers(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    called = []

    async def connect(self, host, port, *more):
        called.append(host)
        raise outbound.httpcore.ConnectError("enough")

    monkeypatch.setattr(outbound.httpcore.AnyIOBackend, "connect_tcp", connect)
    with pytest.raises(Undelivered, match="connection failed"):
        await post("https://rebind.example.org/", {}, b"{}", {})
    assert (asked, called) == (["rebind.example.org"], ["8.8.8.8"])


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    answers(monkeypatch, ["10.0.0.1"])
    with pytest.raises(Undelivered, match="not on the internet"):
        await post("https://name.example.org/", {}, b"{}", {})


@pytest.mark.parametrize(
    "address",
    [
        "a@b.org\r\nBcc: x@y.org",
        "a@b.org\nBcc: x@y.org",
        "a@b.org, c@d.org",
        '"a b"@b.org',
        "Ann <a@b.org>",
        "a@",
        "@b.org",
        "a@127.0.0.1",
        "a@[127.0.0.1]",
        "a..b@c.org",
        "a@b@c.org",
        "ä@b.org",
        "a" * 65 + "@b.org",
        "-oQ/tmp -X@b org",
    ],
)
def test_such_an_e_mail_address_is_refused(address):
    with pytest.raises(Refused):
        email.check(address, "", SMTP)


def test_words_of_strangers_make_no_header():
    notice = Notice(
        "e.1", "raised", "2026-11-22T00:00:00Z", "alert-a", "acme", "critical",
        "failed\r\nBcc: x@y.org\x00\x1b[31m", "", {},
    )  # fmt: skip
    message = email.message_of(notice, "loomos@example.org", "a@b.org")
    assert message["Bcc"] is None
    head = message.as_bytes().partition(b"\n\n")[0]
    assert b"\x1b" not in head and not any(line.startswith(b"Bcc") for line in head.splitlines())


def test_a_weak_or_broken_key_is_refused_without_being_shown():
    for secret in ("short", "whsec_???"):
        with pytest.raises(Refused) as error:
            webhook.check("https://example.org/", secret, {})
        assert secret not in str(error.value)
