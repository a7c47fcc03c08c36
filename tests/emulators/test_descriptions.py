"""Job descriptions as people and programs write them: what is understood, what is refused, and never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulators.unicore_site.configuration import Queue
from emulators.unicore_site.descriptions import Asked, DescriptionError, read, seconds

QUEUES = {"batch": Queue(max_nodes=4, gpus_per_node=4), "devel": Queue(max_nodes=1, max_runtime_seconds=1800)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "Executable",
        "Arguments",
        "Environment",
        "Imports",
        "Resources",
        "Tags",
        "Umask",
        "NotificationSettings",
        "Stdout",
    ]
)


def test_a_description_as_jupyter_jsc_submits_it_is_understood() -> None:
    description = read(
        {
            "ApplicationName": "Bash shell",
            "Executable": "/bin/bash",
            "Arguments": ["start.sh", 1, True],
            "umask": "022",
            "Tags": "one two,three",
            "Environment": ["A=1", "B = two=2 ", "C"],
            "Parameters": {"A": "0", "D": 4},
            "Imports": [{"From": "inline://dummy", "To": "start.sh", "Data": ["one", "two"]}],
            "NotificationSettings": {"URL": "http://x/", "bssStatus": ["PENDING"]},
            "Resources": {"Queue": "batch", "Nodes": "2", "Runtime": "30min", "GPUS": "8", "Reservation": "r"},
            "Something of the site's own": {"x": 1},
        }
    )
    assert description.command == ["/bin/bash", "-c", "/bin/bash start.sh 1 true"]
    assert (description.umask, description.words) == ("022", ["one", "two", "three"])
    assert description.variables == {"A": "1", "B": "two=2", "C": "", "D": "4"}
    assert description.imports[0].content == "one\ntwo\n"
    assert (description.notifies.url, description.notifies.status) == ("http://x/", None)
    assert description.asked(QUEUES) == Asked("batch", 2, 1800.0)
    assert description.starts_by_itself


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"Queue": "nosuch"}, "No such queue: nosuch"),
        ({"Nodes": 5}, "Nodes=5"),
        ({"Nodes": "0"}, "Nodes=0"),
        ({"Nodes": "many"}, "is not a number"),
        ({"Nodes": -1}, "is not a number"),
        ({"GPUsPerNode": 5}, "GPUsPerNode=5"),
        ({"GPUs": 9, "Nodes": 2}, "GPUsPerNode=5"),
        ({"Queue": "devel", "GPUsPerNode": 1}, "GPUsPerNode=1"),
        ({"Queue": "devel", "Runtime": "31min"}, "Runtime=1860"),
        ({"Runtime": "0"}, "Runtime=0"),
        ({"Runtime": "soon"}, "not a duration"),
        ({"Quantum": "1"}, "Resource <Quantum> is not available"),
    ],
)
def test_what_a_queue_does_not_give_is_refused_in_words(resources: dict[str, Any], words: str) -> None:
    with pytest.raises(DescriptionError, match=words):
        read({"Resources": resources}).asked(QUEUES)


def test_what_is_not_asked_for_is_given_within_the_limits() -> None:
    assert read({}).asked(QUEUES) == Asked("batch", 1, 3600.0)
    assert read({"Resources": {"Queue": "devel", "Reservation": None}}).asked(QUEUES) == Asked("devel", 1, 1800.0)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"Arguments": "start.sh"},
        {"Imports": [{"From": "inline://"}]},
        {"Resources": "batch"},
        {"Umask": "rw-"},
        {"Executable": "a\0b"},
        {"Environment": {"A": "a\0b"}},
        {"Job type": "RAW"},
    ],
)
def test_what_is_no_description_is_refused(document: Any) -> None:
    with pytest.raises(DescriptionError):
        read(document).asked(QUEUES)


@given(st.dictionaries(KEYS | st.text(), JSON, max_size=6) | JSON)
def test_whatever_is_sent_is_understood_or_refused(document: Any) -> None:
    try:
        description = read(document)
        description.asked(QUEUES)
    except DescriptionError as error:
        assert str(error)
    else:
        assert all(isinstance(word, str) for word in (*description.command, *description.words))


def test_durations_are_read_as_unicore_writes_them() -> None:
    assert [seconds(each) for each in ("90", "30min", "2h", "1d", " 5 s ")] == [90, 1800, 7200, 86_400, 5]
    for wrong in ("soon", "", "-5", "1.5h", "9" * 400):
        with pytest.raises(ValueError, match="not a duration"):
            seconds(wrong)
