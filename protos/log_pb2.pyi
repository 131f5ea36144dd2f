from protos import edge_pb2 as _edge_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogRecord(_message.Message):
    __slots__ = ("block", "close", "commit", "sum", "receipt")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    block: Block
    close: LogClose
    commit: LogCommit
    sum: BlockSum
    receipt: LogReceipt
    def __init__(self, block: _Optional[_Union[Block, _Mapping]] = ..., close: _Optional[_Union[LogClose, _Mapping]] = ..., commit: _Optional[_Union[LogCommit, _Mapping]] = ..., sum: _Optional[_Union[BlockSum, _Mapping]] = ..., receipt: _Optional[_Union[LogReceipt, _Mapping]] = ...) -> None: ...

class LogPlan(_message.Message):
    __slots__ = ("sum", "scale", "parameters", "values", "partitions", "rule", "byzantine", "bits")
    SUM_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    BYZANTINE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    sum: int
    scale: _edge_pb2.SumScale
    parameters: int
    values: int
    partitions: int
    rule: str
    byzantine: int
    bits: int
    def __init__(self, sum: _Optional[int] = ..., scale: _Optional[_Union[_edge_pb2.SumScale, _Mapping]] = ..., parameters: _Optional[int] = ..., values: _Optional[int] = ..., partitions: _Optional[int] = ..., rule: _Optional[str] = ..., byzantine: _Optional[int] = ..., bits: _Optional[int] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("plan", "uid", "number", "weight", "factor", "values")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    plan: LogPlan
    uid: bytes
    number: int
    weight: int
    factor: float
    values: bytes
    def __init__(self, plan: _Optional[_Union[LogPlan, _Mapping]] = ..., uid: _Optional[bytes] = ..., number: _Optional[int] = ..., weight: _Optional[int] = ..., factor: _Optional[float] = ..., values: _Optional[bytes] = ...) -> None: ...

class LogClose(_message.Message):
    __slots__ = ("plan", "attempt", "uids")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    plan: LogPlan
    attempt: int
    uids: bytes
    def __init__(self, plan: _Optional[_Union[LogPlan, _Mapping]] = ..., attempt: _Optional[int] = ..., uids: _Optional[bytes] = ...) -> None: ...

class LogCommit(_message.Message):
    __slots__ = ("sum",)
    SUM_FIELD_NUMBER: _ClassVar[int]
    sum: int
    def __init__(self, sum: _Optional[int] = ...) -> None: ...

class BlockSum(_message.Message):
    __slots__ = ("sum", "attempt", "partition", "number", "piece", "weight", "words", "missing")
    SUM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    sum: int
    attempt: int
    partition: int
    number: int
    piece: int
    weight: int
    words: bytes
    missing: bytes
    def __init__(self, sum: _Optional[int] = ..., attempt: _Optional[int] = ..., partition: _Optional[int] = ..., number: _Optional[int] = ..., piece: _Optional[int] = ..., weight: _Optional[int] = ..., words: _Optional[bytes] = ..., missing: _Optional[bytes] = ...) -> None: ...

class LogReceipt(_message.Message):
    __slots__ = ("plan", "receipt")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    plan: LogPlan
    receipt: _edge_pb2.Receipt
    def __init__(self, plan: _Optional[_Union[LogPlan, _Mapping]] = ..., receipt: _Optional[_Union[_edge_pb2.Receipt, _Mapping]] = ...) -> None: ...
