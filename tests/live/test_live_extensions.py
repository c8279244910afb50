"""Extensions beyond Postfix, from MAIL to the next hop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.talk import Talk

MAIN = {
    "mtad_smtpd_extensions": "limits binarymime futurerelease deliverby mt-priority",
    "mtad_future_release_limit": "1h",
    "smtpd_authorized_verp_clients": "$mynetworks",
    "smtpd_recipient_limit": "2",
}
TEXT = b"Subject: x\r\n\r\nhello\r\n.\r\n"


class Client(Talk):
    def send(self, parameters: str, *recipients: str) -> bytes:
        assert self.say(f"MAIL FROM:<a@example.com> {parameters}").startswith(b"250")
        for recipient in recipients or ("b@example.net",):
            assert self.say(f"RCPT TO:<{recipient}>").startswith(b"250")
        assert self.say("DATA").startswith(b"354")
        return self.say(TEXT)


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def mtad(sink: Sink) -> Iterator[Mtad]:
    with Mtad({"relayhost": f"[127.0.0.1]:{sink.port}", **MAIN}) as mtad:
        yield mtad


@pytest.fixture
def client(mtad: Mtad) -> Client:
    client = Client(mtad.ports["submission"])
    offers = client.say("EHLO client.example")
    assert b"250-LIMITS RCPTMAX=2\r\n" in offers
    assert b"250-FUTURERELEASE 3600 2" in offers
    assert b"REQUIRETLS" not in offers
    return client


def test_mail_is_held_until_its_time(client: Client, sink: Sink) -> None:
    before, begin = len(sink.raw()), time.time()
    assert client.send("HOLDFOR=2").startswith(b"250")
    assert client.send("").startswith(b"250")
    wait_until(lambda: len(sink.raw()) == before + 2, "both mails")
    assert time.time() - begin >= 2
    assert client.say("MAIL FROM:<a@example.com> HOLDFOR=3601").startswith(b"501 5.5.4 ")
    assert client.say("MAIL FROM:<a@example.com> HOLDUNTIL=2001-01-01T00:00:00Z").startswith(b"501 5.5.4 ")


def test_the_announced_limit_holds(client: Client) -> None:
    client.say("MAIL FROM:<a@example.com>")
    replies = [client.say(f"RCPT TO:<{name}@example.net>")[:3] for name in "abc"]
    assert replies == [b"250", b"250", b"452"]


def test_each_recipient_has_a_sender_of_its_own(client: Client, sink: Sink) -> None:
    before = len(sink.raw())
    client.send("XVERP=-=", "b@example.net", "c@example.net")
    wait_until(lambda: len(sink.raw()) == before + 2, "both mails")
    senders = {mail["X-Sink-Sender"] for mail in sink.mails()[before:]}
    assert senders == {"a-b=example.net@example.com", "a-c=example.net@example.com"}


def test_priorities_are_for_those_who_have_logged_in(client: Client) -> None:
    reply = client.say("MAIL FROM:<a@example.com> MT-PRIORITY=5")
    assert reply == b"250 2.3.6 0 is the priority granted\r\n"
    client.say("RSET")
    assert client.say("MAIL FROM:<a@example.com> MT-PRIORITY=-5") == b"250 2.1.0 Ok\r\n"


def test_a_deadline_that_is_met(client: Client, sink: Sink) -> None:
    before = len(sink.raw())
    assert client.send("BY=60;R").startswith(b"250")
    wait_until(lambda: len(sink.raw()) == before + 1, "the mail")
    assert client.say("MAIL FROM:<a@example.com> BY=60;R HOLDFOR=60").startswith(b"501 5.5.4 ")


def test_binary_content_is_converted(client: Client, sink: Sink) -> None:
    before = len(sink.raw())
    assert client.say("MAIL FROM:<a@example.com> BODY=BINARYMIME").startswith(b"250")
    assert client.say("RCPT TO:<b@example.net>").startswith(b"250")
    assert client.say("DATA").startswith(b"503 5.5.1 ")
    content = bytes(range(256)) * 500
    head = b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    for chunk in (head + content[:50000], content[50000:]):
        assert client.say(b"BDAT %d\r\n%b" % (len(chunk), chunk)).startswith(b"250")
    reply = client.say(b"BDAT 0 LAST\r\n")
    assert reply.startswith(b"250 2.0.0 Ok: %d bytes queued" % (len(head) + len(content)))
    wait_until(lambda: len(sink.raw()) == before + 1, "the mail")
    mail = sink.mails()[before]
    assert mail["Content-Transfer-Encoding"] == "base64"
    assert mail.get_payload(decode=True) == content
