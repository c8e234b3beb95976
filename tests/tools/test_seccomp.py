"""The seccomp profile in the repository is the one that `tools/seccomp` derives."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [
        {"names": ["read", "unshare"], "action": "SCMP_ACT_ALLOW", "includes": {}},
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}


def derived(default: Path) -> dict[str, object]:
    command = [sys.executable, str(ROOT / "tools/seccomp"), str(default)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def test_one_rule_more_and_nothing_else(tmp_path: Path) -> None:
    default = tmp_path / "default.json"
    default.write_text(json.dumps(DEFAULT))
    added, *others = derived(default)["syscalls"]  # type: ignore[misc]
    assert "sethostname" in added["names"]
    assert others == [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ]


def test_the_shipped_profile() -> None:
    shipped = json.loads((ROOT / "container/seccomp.json").read_text())
    [rule] = [rule for rule in shipped["syscalls"] if "sethostname" in rule["names"]]
    assert (rule["action"], rule["includes"], rule["excludes"]) == ("SCMP_ACT_ALLOW", {}, {})
    assert shipped["defaultAction"] == "SCMP_ACT_ERRNO"
    refused = [rule for rule in shipped["syscalls"] if "bpf" in rule["names"]]
    assert all(rule["includes"] or rule["excludes"] for rule in refused)
