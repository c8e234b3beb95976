"""Keys, as OpenSSH's own tools see them."""

import subprocess
from pathlib import Path

from popnet.tty import keys


def test_openssh_reads_the_key_and_agrees_on_its_public_half_and_fingerprint(tmp_path: Path) -> None:
    private, public = keys.generate_key("machine demo")
    file = tmp_path / "key"
    file.write_bytes(private)
    file.chmod(0o600)
    derived = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True)
    assert derived.stdout.strip() == public
    assert public.endswith(" machine demo")
    assert keys.public_line(private) == public
    listed = subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, text=True, check=True)
    assert listed.stdout.split()[1] == keys.fingerprint(public)


def test_every_key_is_new() -> None:
    assert keys.generate_key()[1] != keys.generate_key()[1]
