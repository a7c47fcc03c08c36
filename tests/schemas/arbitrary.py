"""Any message that the contract allows, made from the constraints of its struct. Makes nothing the types refuse."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from schemas.base import EventId, Message
from schemas.wire import CURRENT

MOST = 12
"""Longest text and list; lengths at the bounds have tests of their own."""


@cache
def messages_of(message: type[Message]) -> st.SearchStrategy[Message]:
    """Stamped messages of one type."""
    ids = st.text("0123456789abcdef", min_size=32, max_size=32).map(EventId)
    bodies = _values(inspect.type_info(message)).map(lambda body: msgspec.convert(body, message))
    return st.builds(
        lambda each, id_, source: msgspec.structs.replace(each, id=id_, source=source),
        bodies,
        ids,
        st.text(min_size=1, max_size=MOST),
    )


def messages() -> st.SearchStrategy[Message]:
    """Stamped messages of every type."""
    return st.sampled_from(CURRENT).flatmap(messages_of)


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata():
            return _values(kind.type)
        case inspect.StructType():
            fields = {field.encode_name: _values(field.type) for field in kind.fields}
            tag = {kind.tag_field: kind.tag} if kind.tag_field else {}
            required = {field.encode_name: fields.pop(field.encode_name) for field in kind.fields if field.required}
            return st.fixed_dictionaries(required, optional=fields).map(lambda values: tag | values)
        case inspect.UnionType():
            return st.one_of([_values(each) for each in kind.types])
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.DateTimeType():
            return st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))
        case inspect.ListType():
            return st.lists(_values(kind.item_type), max_size=2)
        case inspect.DictType():
            return st.dictionaries(_values(kind.key_type), _values(kind.value_type), max_size=2)
        case inspect.StrType(pattern=str() as pattern):
            return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)
        case inspect.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(kind.max_length or MOST, MOST))
        case inspect.IntType():
            low = -(2**63) if kind.ge is None else kind.ge
            return st.integers(low, 2**63 - 1 if kind.le is None else kind.le)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case _:
            raise TypeError(f"no strategy for {kind}")
