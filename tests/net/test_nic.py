"""Settings on a host whose /proc cannot be written; all else of a NIC is tested live."""

from pathlib import Path

from popnet.net.nic import _write, _write_all


def test_a_setting_is_written_or_told_to_be_out_of_reach(tmp_path: Path) -> None:
    setting, read_only = tmp_path / "accept_dad", tmp_path / "router_solicitations"
    setting.write_text("1")
    read_only.mkdir()  # stands for a read-only file: not even root can open it for writing
    assert _write(str(setting), b"0")
    assert setting.read_text() == "0"
    assert not _write(str(read_only), b"0")
    assert not _write(str(tmp_path / "absent"), b"0")


def test_settings_that_a_host_lacks_are_named_and_the_others_written(tmp_path: Path) -> None:
    (tmp_path / "accept_dad").write_text("1")
    settings = (("tcp_tso_rtt_log", b"12"), ("accept_dad", b"0"))
    assert _write_all(str(tmp_path), settings) == ("tcp_tso_rtt_log",)
    assert (tmp_path / "accept_dad").read_text() == "0"
