"""Where a service listens, and what is said when it cannot."""

from __future__ import annotations

import os
import socket

import pytest
from net_pki import parameters

from mtad.config.master_cf import Service, parse_service
from mtad.errors import ConfigError
from mtad.net.listen import Endpoint, bind, endpoints, known_ports


def service(name: str) -> Service:
    return parse_service(f"{name} inet n - n - - smtpd", "master.cf", 17)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("submission", {"inet_protocols": "ipv4"}, [("0.0.0.0", 587)]),
        ("smtps", {"inet_protocols": "ipv4"}, [("0.0.0.0", 465)]),
        ("submissions", {"inet_protocols": "ipv4"}, [("0.0.0.0", 465)]),
        ("2587", {"inet_protocols": "ipv4"}, [("0.0.0.0", 2587)]),
        ("2587", {"inet_protocols": "ipv4", "inet_interfaces": "127.0.0.1"}, [("127.0.0.1", 2587)]),
        ("127.0.0.1:2587", {}, [("127.0.0.1", 2587)]),
        ("[127.0.0.1]:submission", {}, [("127.0.0.1", 587)]),
        ("localhost:2587", {"inet_protocols": "ipv4"}, [("127.0.0.1", 2587)]),
        ("domain", {"inet_protocols": "ipv4"}, [("0.0.0.0", 53)]),
        ("mine", {"inet_protocols": "ipv4", "known_tcp_ports": "mine=2525"}, [("0.0.0.0", 2525)]),
    ],
)
def test_endpoints(name: str, values: dict[str, str], wanted: list[tuple[str, int]]) -> None:
    assert [(one.host, one.port) for one in endpoints(service(name), parameters(**values))] == wanted


def test_ipv6_endpoint() -> None:
    (found,) = endpoints(service("[::1]:587"), parameters(inet_protocols="all"))
    assert (found.family, str(found)) == (socket.AF_INET6, "[::1]:587")
    assert str(Endpoint("127.0.0.1", 25)) == "127.0.0.1:25"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nosuchservice", "unknown service name nosuchservice"),
        ("70000", "unknown service name 70000"),
        ("::1:25", "neither a port nor host:port"),
        ("no.such.host.invalid:25", "host no.such.host.invalid"),
    ],
)
def test_bad_names(name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoints(service(name), parameters(inet_protocols="ipv4"))
    assert caught.value.line == 17
    assert caught.value.path == "/etc/postfix/master.cf"
    assert reason in caught.value.reason


def test_known_ports() -> None:
    assert known_ports(parameters(known_tcp_ports="a=b=7, c=8")) == {"a": 7, "b": 7, "c": 8}
    for bad in ("a", "a=x", "=", "a=0"):
        with pytest.raises(ConfigError, match="known_tcp_ports"):
            known_ports(parameters(known_tcp_ports=bad))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_bind() -> None:
    port = free_port()
    (listener,) = bind(service(f"127.0.0.1:{port}"), parameters())
    with listener:
        assert not listener.getblocking()
        assert listener.getsockname() == ("127.0.0.1", port)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(ConfigError, match="another program listens on"):
            bind(service(f"127.0.0.1:{port}"), parameters())


def test_wildcards_of_both_kinds_share_a_port() -> None:
    listeners = bind(service(str(free_port())), parameters())
    try:
        assert [one.family for one in listeners][:1] == [socket.AF_INET]
        for one in listeners[1:]:
            assert one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    finally:
        for one in listeners:
            one.close()


def test_foreign_address() -> None:
    with pytest.raises(ConfigError, match="must be one of this host"):
        bind(service("203.0.113.1:2587"), parameters())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_ports_of_root() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
                if int(file.read()) <= 26:
                    os.write(write, b"may not listen on, start mtad as root")  # nothing to refuse here
            bind(service("127.0.0.1:26"), parameters())
        except ConfigError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    text = os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
    assert "may not listen on" in text
    assert "start mtad as root" in text
