"""Settings on a host whose /proc cannot be written; all else of a NIC is tested live."""

from pathlib import Path

from popnet.net.nic import _write


def test_a_setting_is_written_or_told_to_be_out_of_reach(tmp_path: Path) -> None:
    setting, read_only = tmp_path / "accept_dad", tmp_path / "router_solicitations"
    setting.write_text("1")
    read_only.mkdir()  # stands for a read-only file: not even root can open it for writing
    assert _write(str(setting), b"0")
    assert setting.read_text() == "0"
    assert not _write(str(read_only), b"0")
    assert not _write(str(tmp_path / "absent"), b"0")
