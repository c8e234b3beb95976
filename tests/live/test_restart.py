"""A kernel that ended by itself boots again, if its policy says so; a crash loop is given up."""

from tests.live.lab import Lab, wait_until

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: light, restart: on-failure}}
  k2: {{image: light}}
"""


def generation(lab: Lab, name: str) -> int:
    row = lab.kernels()[name]
    return int(row["generation"]) if row["state"] == "online" else 0


def test_panic_and_hang_are_mended_and_kill_is_not(lab: Lab) -> None:
    lab.up(MACHINE)
    lab.popnet("panic", "k1")
    wait_until(lambda: generation(lab, "k1") >= 2, "k1 is back")
    before = generation(lab, "k1")
    lab.popnet("hang", "k1")
    wait_until(lambda: generation(lab, "k1") > before, "k1 is back from its hang")
    lab.ping("k2", "k1")
    texts = [event["text"] for event in lab.events()]
    assert "kernel 1: restarts in 0.5 s (1 of 5): panic was asked for" in texts
    assert any(text.startswith("kernel 1: restarts in 1 s (2 of 5): hung (no heartbeat") for text in texts)
    lab.popnet("panic", "k2")
    before = generation(lab, "k1")
    lab.popnet("kill", "k1")
    assert lab.kernels()["k1"]["state"] == "offline"
    lab.popnet("boot", "k1")
    assert lab.kernels()["k1"]["generation"] == before + 1
    assert lab.kernels()["k2"]["state"] == "failed", "its policy is never"
    assert not any(event["kind"] == "kernel.restart" and event["kernel"] == "k2" for event in lab.events())
