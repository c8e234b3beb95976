"""Tests of the messages: pure ones by table and by hypothesis, the endpoint over fake and real links."""
