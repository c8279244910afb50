"""Strong mechanisms end to end: lists by security options, logins, mistakes, a change of mechanism."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator

from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    Houses,
    Step,
    b64,
    cram,
    each,
    plain,
)

from mtad.sasl.client import Client, ClientContext, choose

OPTIONS = ("noplaintext", "noactive", "nodictionary", "noanonymous", "mutual_auth")
CONF = (
    "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {dir}/sasldb2\n"
    "mech_list: login scram-sha-1 plain anonymous digest-md5 scram-sha-512 cram-md5 scram-sha-256\n"
)


def services() -> Iterator[tuple[str, dict[str, str]]]:
    yield "submission", {}
    yield "spared", {"smtpd_sasl_exceptions_networks": "127.0.0.0/8"}
    yield "others", {"smtpd_sasl_exceptions_networks": "!127.0.0.1, 10.0.0.0/8"}
    yield "filtered", {"smtpd_sasl_mechanism_filter": "!scram-sha-1, !DIGEST-MD5, static:rest"}
    for option in OPTIONS:
        if option != "nodictionary":  # nothing is left, which is fatal
            yield option, {"smtpd_sasl_security_options": option}
    yield "none", {"smtpd_sasl_security_options": ""}
    yield "fast", {"smtpd_error_sleep_time": "0"}
    yield "both", {"smtpd_sasl_security_options": "noanonymous, noplaintext, mutual_auth"}


STRONG = Config(
    "strong",
    {"smtpd_sasl_auth_enable": "yes", "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject"},
    services=list(services()),
    users={"alice@mail.example.com": "secret"},
    files={"sasl/smtpd.conf": CONF},
)
GUESSES = [plain("alice", f"guess{number}") for number in range(20)]
DELIVER = (MAIL, RCPT, "DATA", Body(TEXT))


def login(mechanism: str, password: bytes = b"secret") -> list[Step]:
    """The steps of our client, which is made anew for each session."""
    client: list[Client] = []

    def begin(_: bytes = b"") -> str:
        context = ClientContext(b"mail.example.com")
        client[:] = [choose([mechanism.encode()], (), b"alice", password, context=context)]
        initial = client[0].initial()
        return f"AUTH {mechanism}" + ("" if initial is None else " " + b64encode(initial).decode())

    def answer(reply: bytes) -> str:
        return b64encode(client[0].step(b64decode(reply[4:]))).decode()

    steps: list[Step] = [begin, answer]
    if password == b"secret" and mechanism != "CRAM-MD5":
        steps.append(answer)
    return steps


def malformed(mechanism: str, *said: str) -> Dialogue:
    return Dialogue(f"{mechanism} {' '.join(said)}", [HELLO, f"AUTH {mechanism}", *said, "NOOP"])


CASES = {
    STRONG: [
        *(Dialogue(f"list: {name}", [HELLO, "AUTH PLAIN", "*", "AUTH DIGEST-MD5", "*"], service=name)
          for name, _ in services()),
        *(Dialogue(f"login: {name}", [HELLO, *login(name), "NOOP", *DELIVER], login="alice")
          for name in ("DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "CRAM-MD5")),
        *(Dialogue(f"wrong: {name}", [HELLO, *login(name, b"wrong"), MAIL])
          for name in ("DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")),
        Dialogue("one after the other", [
            HELLO, *login("SCRAM-SHA-256", b"x"), *login("DIGEST-MD5", b"x"), plain("alice", "x"),
            "AUTH CRAM-MD5", cram("alice", "x"), *login("DIGEST-MD5"), *login("PLAIN")[:1], *DELIVER,
        ], login="alice"),
        *(Dialogue(f"{name}, then {last}", [HELLO, *login(name)[:2], last, "NOOP", MAIL])
          for name in ("DIGEST-MD5", "SCRAM-SHA-256") for last in ("!", "YQ==", "YQ", "=", "a b")),
        Dialogue("not yet", [HELLO, *login("SCRAM-SHA-256")[:2], "*", MAIL]),
        malformed("DIGEST-MD5", b64("username=")),
        malformed("DIGEST-MD5", "!"),
        malformed("SCRAM-SHA-256", "*"),
        malformed("SCRAM-SHA-256", b64("n,,n=alice")),
        malformed("SCRAM-SHA-256", b64("n" * 3000)),
        malformed("ANONYMOUS"),
        Dialogue("anonymous", [HELLO, f"AUTH ANONYMOUS {b64('me@example.net')}", MAIL], service="none"),
        Dialogue("nineteen wrong ones, then right",
                 [HELLO, *GUESSES[:19], plain("alice", "secret"), *DELIVER], service="fast", login="alice"),
        Dialogue("twenty in a row", [HELLO, *GUESSES, End()], service="fast"),
        Dialogue("twenty of all kinds", [
            HELLO, *[step for _ in range(5) for step in (
                *login("DIGEST-MD5", b"x"), *login("SCRAM-SHA-256", b"x"), "AUTH CRAM-MD5",
                cram("alice", "x"), plain("nobody", "x"))], End(),
        ], service="fast"),
        Dialogue("twenty that are right", [HELLO, *[plain("alice", "secret")] * 20, "NOOP"], service="fast"),
        Dialogue("in a transaction", [
            HELLO, MAIL, plain("alice", "secret"), "AUTH CRAM-MD5", "RSET", plain("alice", "secret"), MAIL,
            "AUTH PLAIN", RCPT, "AUTH LOGIN", "DATA", Body(TEXT),
        ], login="alice"),
        Dialogue("names end before a NUL", [
            HELLO, "AUTH LOGIN", b64("a\0lice"), b64("secret"), "AUTH CRAM-MD5", cram("\0alice", "secret"),
            "AUTH LOGIN", b64("alice\0x"), b64("secret"), *DELIVER,
        ], service="none", login="alice"),
        Dialogue("spared, but may", [HELLO, plain("alice", "secret"), "NOOP"], service="spared"),
    ]
}  # fmt: skip


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
