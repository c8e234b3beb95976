"""Verdicts as JUnit XML: well-formed whatever a command said, and counted."""

from xml.etree import ElementTree

from popnet.cli.check import Verdict
from popnet.cli.junit import junit_text


def test_each_verdict_is_a_case() -> None:
    text = junit_text(
        "lab",
        [
            Verdict("all reach all", "k1", "k2", "", 0.25),
            Verdict('its "name" <is> right & proper', "k1", None, "it said '\x1b[1m<no>'\n& more", 1.0),
        ],
    )
    root = ElementTree.fromstring(text.encode())
    suite = root[0]
    assert (suite.attrib["name"], suite.attrib["tests"], suite.attrib["failures"]) == ("lab", "2", "1")
    good, bad = suite
    assert good.attrib == {"classname": "lab.all reach all", "name": "k1 to k2", "time": "0.250"}
    assert list(good) == []
    assert bad.attrib["classname"] == 'lab.its "name" <is> right & proper'
    assert bad[0].tag == "failure"
    assert bad[0].attrib["message"] == "it said '\ufffd[1m<no>'\n& more"
