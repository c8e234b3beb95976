"""Keys of a machine: made here, told by their fingerprints. With sshd, the door to asyncssh."""

import base64
import hashlib

import asyncssh


def generate_key(comment: str = "") -> tuple[bytes, str]:
    """A new Ed25519 key: (private, in OpenSSH's format; public, one line `ssh-ed25519 AAAA... comment`)."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return key.export_private_key(), public_line(key.export_private_key())


def public_line(private: bytes) -> str:
    """The public line of a private key, without a newline."""
    return asyncssh.import_private_key(private).export_public_key().decode().strip()


def fingerprint(public: str) -> str:
    """`SHA256:...` of a public line, as OpenSSH's clients show it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def is_authorized_line(line: str) -> bool:
    """Whether *line* of an `authorized_keys` lets somebody in."""
    try:
        asyncssh.import_authorized_keys(line + "\n")
    except (ValueError, asyncssh.Error):
        return False
    return bool(line.strip()) and not line.lstrip().startswith("#")
