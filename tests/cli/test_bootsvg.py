"""The picture of boots: well-formed, every step in it, on one axis."""

from xml.etree import ElementTree

from popnet.cli.bootsvg import LABEL, PLOT, svg

SVG = "{http://www.w3.org/2000/svg}"


def _step(name: str, start: float, took: float) -> dict[str, object]:
    return {"step": name, "start_ms": start, "took_ms": took}


def test_steps_are_boxes_on_one_axis() -> None:
    picture = ElementTree.fromstring(
        svg(
            {
                "k1": [_step("fork", 0, 2), _step("root", 2, 8)],
                "k2": [_step("fork", 0, 1), _step("<b>", 1, 4)],
                "k3": [],
            }
        )
    )
    boxes = {box.findtext(f"{SVG}title"): box for box in picture.iter(f"{SVG}rect") if len(box)}
    assert list(boxes) == ["fork: 2.0 ms", "root: 8.0 ms", "fork: 1.0 ms", "<b>: 4.0 ms"]
    root = boxes["root: 8.0 ms"]
    assert float(root.attrib["x"]) == LABEL + PLOT * 0.2
    assert float(root.attrib["width"]) == PLOT * 0.8
    assert boxes["fork: 2.0 ms"].attrib["fill"] == boxes["fork: 1.0 ms"].attrib["fill"]
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"k1", "k2", "10 ms", "5.0 ms"} <= set(texts)
    assert "k3" not in texts


def test_a_machine_without_boots_is_an_empty_picture() -> None:
    assert len(list(ElementTree.fromstring(svg({"k1": []})).iter(f"{SVG}rect"))) == 1
