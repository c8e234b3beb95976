"""Where images and machine files are found."""

from pathlib import Path

import pytest

from popnet.core.errors import NoSuchMachine
from popnet.machine.search import find_images, find_machine_file, image_search_path

KERNELS = Path(__file__).parents[2] / "kernels"


def test_order_of_the_search_path(tmp_path: Path) -> None:
    path = image_search_path({"POPNET_IMAGE_PATH": "/one::/two"}, str(tmp_path / "m.yaml"))
    assert path[:4] == [str(tmp_path / "images"), "/one", "/two", str(KERNELS)]
    assert path[-1].endswith("share/popnet/kernels")
    assert all(Path(directory).is_absolute() for directory in image_search_path({}, "m.yaml"))


def test_first_image_of_a_name_counts(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "light").mkdir(parents=True)
        (tmp_path / place / "light" / "image.yaml").touch()
    (tmp_path / "a" / "none").mkdir()
    images = find_images([str(tmp_path / "absent"), str(tmp_path / "a"), str(tmp_path / "b"), str(KERNELS)])
    assert images["light"] == str(tmp_path / "a" / "light")
    assert images["full"] == str(KERNELS / "full")


def test_bare_names_and_paths() -> None:
    assert find_machine_file("demo", {}) == str(KERNELS / "machines" / "demo.yaml")
    assert find_machine_file("./demo", {}) == "./demo"
    assert find_machine_file("demo.yaml", {}) == "demo.yaml"


def test_a_file_here_counts_before_a_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").touch()
    assert find_machine_file("demo", {}) == "demo"


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(NoSuchMachine, match="no machine file is called 'dmeo'; did you mean 'demo'"):
        find_machine_file("dmeo", {})


def test_a_wheel_brings_every_file_of_kernels() -> None:
    import tomllib

    root = KERNELS.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    kernels = {place: files for place, files in listed.items() if place.startswith("share/popnet/kernels")}
    shipped = {
        f"{place.removeprefix('share/popnet/')}/{Path(file).name}"
        for place, files in kernels.items()
        for file in files
    }
    present = {str(file.relative_to(root)) for file in KERNELS.rglob("*") if file.is_file()}
    assert shipped == present
    assert {file for files in kernels.values() for file in files} == present
    assert all((root / file).is_file() for files in listed.values() for file in files)
