from protos import leader_pb2 as _leader_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EdgeUp(_message.Message):
    __slots__ = ("hello", "receipt", "beat", "gone", "serving", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: EdgeHello
    receipt: Receipt
    beat: EdgeBeat
    gone: Gone
    serving: Serving
    goodbye: EdgeGoodbye
    def __init__(self, hello: _Optional[_Union[EdgeHello, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., beat: _Optional[_Union[EdgeBeat, _Mapping]] = ..., gone: _Optional[_Union[Gone, _Mapping]] = ..., serving: _Optional[_Union[Serving, _Mapping]] = ..., goodbye: _Optional[_Union[EdgeGoodbye, _Mapping]] = ...) -> None: ...

class EdgeHello(_message.Message):
    __slots__ = ("protocol", "release", "name")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    release: str
    name: str
    def __init__(self, protocol: _Optional[int] = ..., release: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class EdgeBeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EdgeGoodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Serving(_message.Message):
    __slots__ = ("addresses", "urls")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., urls: _Optional[_Iterable[str]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("uid", "ticket", "header", "size", "squared_norm", "buffers")
    UID_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SQUARED_NORM_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    uid: bytes
    ticket: bytes
    header: _leader_pb2.UpdateHeader
    size: int
    squared_norm: float
    buffers: bool
    def __init__(self, uid: _Optional[bytes] = ..., ticket: _Optional[bytes] = ..., header: _Optional[_Union[_leader_pb2.UpdateHeader, _Mapping]] = ..., size: _Optional[int] = ..., squared_norm: _Optional[float] = ..., buffers: _Optional[bool] = ...) -> None: ...

class Gone(_message.Message):
    __slots__ = ("uids",)
    UIDS_FIELD_NUMBER: _ClassVar[int]
    uids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, uids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class EdgeDown(_message.Message):
    __slots__ = ("welcome", "open", "verdict", "close", "stop", "revoked")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    open: Open
    verdict: Verdict
    close: Close
    stop: _leader_pb2.Stop
    revoked: Revoked
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., stop: _Optional[_Union[_leader_pb2.Stop, _Mapping]] = ..., revoked: _Optional[_Union[Revoked, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("run_id", "token", "key", "config", "layout", "heartbeat_s")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    token: bytes
    key: bytes
    config: str
    layout: ModelLayout
    heartbeat_s: float
    def __init__(self, run_id: _Optional[str] = ..., token: _Optional[bytes] = ..., key: _Optional[bytes] = ..., config: _Optional[str] = ..., layout: _Optional[_Union[ModelLayout, _Mapping]] = ..., heartbeat_s: _Optional[float] = ...) -> None: ...

class Revoked(_message.Message):
    __slots__ = ("names", "serials")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    serials: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., serials: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ModelLayout(_message.Message):
    __slots__ = ("parameters", "buffers", "local")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[TensorEntry]
    buffers: _containers.RepeatedCompositeFieldContainer[TensorEntry]
    local: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parameters: _Optional[_Iterable[_Union[TensorEntry, _Mapping]]] = ..., buffers: _Optional[_Iterable[_Union[TensorEntry, _Mapping]]] = ..., local: _Optional[_Iterable[str]] = ...) -> None: ...

class TensorEntry(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("sum", "round", "step", "scale", "masking", "noise", "log")
    SUM_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    sum: int
    round: int
    step: int
    scale: SumScale
    masking: _leader_pb2.MaskPlan
    noise: _leader_pb2.NoisePlan
    log: int
    def __init__(self, sum: _Optional[int] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., scale: _Optional[_Union[SumScale, _Mapping]] = ..., masking: _Optional[_Union[_leader_pb2.MaskPlan, _Mapping]] = ..., noise: _Optional[_Union[_leader_pb2.NoisePlan, _Mapping]] = ..., log: _Optional[int] = ...) -> None: ...

class SumScale(_message.Message):
    __slots__ = ("fraction_bits", "max_abs", "max_weight", "heaviest")
    FRACTION_BITS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MAX_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HEAVIEST_FIELD_NUMBER: _ClassVar[int]
    fraction_bits: int
    max_abs: float
    max_weight: int
    heaviest: int
    def __init__(self, fraction_bits: _Optional[int] = ..., max_abs: _Optional[float] = ..., max_weight: _Optional[int] = ..., heaviest: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("uid", "error", "message", "retry_after_s")
    UID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    uid: bytes
    error: str
    message: str
    retry_after_s: float
    def __init__(self, uid: _Optional[bytes] = ..., error: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_s: _Optional[float] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("sum", "attempt", "uids")
    SUM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    sum: int
    attempt: int
    uids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sum: _Optional[int] = ..., attempt: _Optional[int] = ..., uids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SumChunk(_message.Message):
    __slots__ = ("header", "chunk", "width", "crc32")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    header: SumHeader
    chunk: bytes
    width: int
    crc32: int
    def __init__(self, header: _Optional[_Union[SumHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., width: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...

class SumHeader(_message.Message):
    __slots__ = ("token", "sum", "attempt", "members", "weights", "total_bytes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    sum: int
    attempt: int
    members: bytes
    weights: _containers.RepeatedScalarFieldContainer[int]
    total_bytes: int
    def __init__(self, token: _Optional[bytes] = ..., sum: _Optional[int] = ..., attempt: _Optional[int] = ..., members: _Optional[bytes] = ..., weights: _Optional[_Iterable[int]] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("run_id", "work_id", "learner_id", "round", "step", "version", "examples", "local_steps", "until", "identity")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    LEARNER_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    work_id: str
    learner_id: int
    round: int
    step: int
    version: int
    examples: int
    local_steps: int
    until: int
    identity: str
    def __init__(self, run_id: _Optional[str] = ..., work_id: _Optional[str] = ..., learner_id: _Optional[int] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., examples: _Optional[int] = ..., local_steps: _Optional[int] = ..., until: _Optional[int] = ..., identity: _Optional[str] = ...) -> None: ...
