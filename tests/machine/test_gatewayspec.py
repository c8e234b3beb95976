"""Where a gateway listens, whose keys let in; and the `gateway` section of a machine file."""

import pytest

from popnet.core.errors import InvalidMachineFile
from popnet.kernel.host import read_host
from popnet.machine.file import loads
from popnet.machine.gatewayspec import GatewaySpec, check_source, tcp_address, variable_of
from popnet.machine.search import image_search_path

TEXT = "apiVersion: popnet/v1\nname: lab\nkernels: {k1: {image: light}}\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2222", ("127.0.0.1", 2222)),
        ("127.8.8.8:1", ("127.8.8.8", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_this_host(text: str, address: tuple[str, int]) -> None:
    assert tcp_address(text, False, "--public") == address


@pytest.mark.parametrize("text", ["0.0.0.0:2222", "[::]:22", "192.168.1.7:22"])
def test_others_reach_it_only_when_asked_for(text: str) -> None:
    with pytest.raises(ValueError, match=r"if they shall, say --public"):
        tcp_address(text, False, "--public")
    assert tcp_address(text, True, "--public")[1] in (22, 2222)


@pytest.mark.parametrize(
    "text", ["", "2222", "localhost:22", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"]
)
def test_what_is_no_address(text: str) -> None:
    for public in (False, True):
        with pytest.raises(ValueError, match="allowed: 127"):
            tcp_address(text, public, "--public")


def test_sources_of_keys() -> None:
    assert variable_of("$KEYS") == "KEYS"
    assert variable_of("./keys") is None
    assert check_source("~/.ssh/id.pub") == "~/.ssh/id.pub"
    for wrong in ("", "$", "$1X", "$a-b"):
        with pytest.raises(ValueError, match="allowed: the path of a file"):
            check_source(wrong)


def load(section: str) -> GatewaySpec | None:
    return loads(TEXT + section, read_host(), image_search_path({}), "lab.yaml").gateway


def test_the_section() -> None:
    assert load("") is None
    assert load('gateway: {listen: "127.0.0.1:22"}') == GatewaySpec("127.0.0.1:22")
    assert load("gateway: {listen: /run/gw.sock, authorized_keys: keys}") == GatewaySpec(
        "/run/gw.sock", ("keys",)
    )
    assert load('gateway: {listen: "0.0.0.0:22", public: true, authorized_keys: [a, $B]}') == GatewaySpec(
        "0.0.0.0:22", ("a", "$B"), True
    )


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("gateway: {}", "lab.yaml:4:10: gateway: key 'listen' is missing"),
        ("gateway:", "gateway: key 'listen' is missing"),
        ("gateway: {listen: 2222}", "lab.yaml:4:19: gateway.listen: got 2222; allowed: 127.0.0.1:PORT"),
        ('gateway: {listen: "0.0.0.0:22"}', "others can reach 0.0.0.0: if they shall, say 'public: true'"),
        ("gateway: {listen: /x, public: 1}", "gateway.public: got 1; allowed: true or false"),
        ("gateway: {listen: /x, authorized_keys: $}", "gateway.authorized_keys: got '$'; allowed: the path"),
        ("gateway: {listen: /x, keys: y}", "gateway.keys: unknown key"),
        ("gateway: 7", "gateway: got 7; allowed: a mapping with the keys listen"),
    ],
)
def test_errors_name_place_key_and_value(section: str, says: str) -> None:
    with pytest.raises(InvalidMachineFile) as caught:
        load(section)
    assert says in str(caught.value)
