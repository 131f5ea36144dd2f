from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Control(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTROL_PLAIN: _ClassVar[Control]
    CONTROL_SESSION: _ClassVar[Control]
    CONTROL_DIALLED: _ClassVar[Control]
CONTROL_PLAIN: Control
CONTROL_SESSION: Control
CONTROL_DIALLED: Control

class LearnerInfo(_message.Message):
    __slots__ = ("network_addr", "protocol", "release", "name", "token", "device", "control", "own_data", "tags", "device_kind", "memory_bytes", "codecs")
    NETWORK_ADDR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    OWN_DATA_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    network_addr: str
    protocol: int
    release: str
    name: str
    token: bytes
    device: str
    control: Control
    own_data: OwnData
    tags: _containers.RepeatedScalarFieldContainer[str]
    device_kind: str
    memory_bytes: int
    codecs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network_addr: _Optional[str] = ..., protocol: _Optional[int] = ..., release: _Optional[str] = ..., name: _Optional[str] = ..., token: _Optional[bytes] = ..., device: _Optional[str] = ..., control: _Optional[_Union[Control, str]] = ..., own_data: _Optional[_Union[OwnData, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., device_kind: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ...) -> None: ...

class OwnData(_message.Message):
    __slots__ = ("examples", "classes", "fingerprint")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    examples: int
    classes: int
    fingerprint: str
    def __init__(self, examples: _Optional[int] = ..., classes: _Optional[int] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class LearnerDataRequest(_message.Message):
    __slots__ = ("network_addr", "token", "shard")
    NETWORK_ADDR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    network_addr: str
    token: bytes
    shard: int
    def __init__(self, network_addr: _Optional[str] = ..., token: _Optional[bytes] = ..., shard: _Optional[int] = ...) -> None: ...

class AckWithMetadata(_message.Message):
    __slots__ = ("success", "message", "learner_id", "max_learners", "token", "run", "name")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_LEARNERS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    learner_id: int
    max_learners: int
    token: bytes
    run: RunDescription
    name: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., learner_id: _Optional[int] = ..., max_learners: _Optional[int] = ..., token: _Optional[bytes] = ..., run: _Optional[_Union[RunDescription, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...

class RunDescription(_message.Message):
    __slots__ = ("run_id", "model", "norm", "classes", "heartbeat_s", "chunk_bytes", "local", "holdout", "own_task", "codec_up", "codec_down", "piece_bytes", "pipelined", "zstd")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    OWN_TASK_FIELD_NUMBER: _ClassVar[int]
    CODEC_UP_FIELD_NUMBER: _ClassVar[int]
    CODEC_DOWN_FIELD_NUMBER: _ClassVar[int]
    PIECE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIPELINED_FIELD_NUMBER: _ClassVar[int]
    ZSTD_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    model: str
    norm: str
    classes: int
    heartbeat_s: float
    chunk_bytes: int
    local: _containers.RepeatedScalarFieldContainer[str]
    holdout: float
    own_task: bool
    codec_up: str
    codec_down: str
    piece_bytes: int
    pipelined: bool
    zstd: bool
    def __init__(self, run_id: _Optional[str] = ..., model: _Optional[str] = ..., norm: _Optional[str] = ..., classes: _Optional[int] = ..., heartbeat_s: _Optional[float] = ..., chunk_bytes: _Optional[int] = ..., local: _Optional[_Iterable[str]] = ..., holdout: _Optional[float] = ..., own_task: _Optional[bool] = ..., codec_up: _Optional[str] = ..., codec_down: _Optional[str] = ..., piece_bytes: _Optional[int] = ..., pipelined: _Optional[bool] = ..., zstd: _Optional[bool] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("success", "message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ("token", "version", "have")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    version: int
    have: int
    def __init__(self, token: _Optional[bytes] = ..., version: _Optional[int] = ..., have: _Optional[int] = ...) -> None: ...

class ModelChunk(_message.Message):
    __slots__ = ("chunk", "piece", "stepped", "redo")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    STEPPED_FIELD_NUMBER: _ClassVar[int]
    REDO_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    piece: Piece
    stepped: Stepped
    redo: Redo
    def __init__(self, chunk: _Optional[bytes] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., stepped: _Optional[_Union[Stepped, _Mapping]] = ..., redo: _Optional[_Union[Redo, _Mapping]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("number", "total_bytes", "crc32", "attempt")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    number: int
    total_bytes: int
    crc32: int
    attempt: int
    def __init__(self, number: _Optional[int] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class Stepped(_message.Message):
    __slots__ = ("round", "step", "version", "counted")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    round: int
    step: int
    version: int
    counted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[int] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., counted: _Optional[_Iterable[str]] = ...) -> None: ...

class Redo(_message.Message):
    __slots__ = ("round", "step", "attempt")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    round: int
    step: int
    attempt: int
    def __init__(self, round: _Optional[int] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class DataChunk(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class GradientData(_message.Message):
    __slots__ = ("chunk", "header", "piece")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    header: UpdateHeader
    piece: Piece
    def __init__(self, chunk: _Optional[bytes] = ..., header: _Optional[_Union[UpdateHeader, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ...) -> None: ...

class UpdateHeader(_message.Message):
    __slots__ = ("token", "work_id", "examples", "total_bytes", "crc32", "loss", "seconds", "offset", "metrics", "start_loss")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    START_LOSS_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    work_id: str
    examples: int
    total_bytes: int
    crc32: int
    loss: float
    seconds: float
    offset: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    start_loss: float
    def __init__(self, token: _Optional[bytes] = ..., work_id: _Optional[str] = ..., examples: _Optional[int] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., loss: _Optional[float] = ..., seconds: _Optional[float] = ..., offset: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., start_loss: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value", "examples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    examples: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., examples: _Optional[int] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("token", "work_id", "total_bytes", "crc32")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    work_id: str
    total_bytes: int
    crc32: int
    def __init__(self, token: _Optional[bytes] = ..., work_id: _Optional[str] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ...) -> None: ...

class UploadStatus(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class WorkOrders(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[WorkOrder]
    def __init__(self, orders: _Optional[_Iterable[_Union[WorkOrder, _Mapping]]] = ...) -> None: ...

class WorkOrder(_message.Message):
    __slots__ = ("work_id", "round", "step", "version", "shard", "seed", "exchange", "first_batch", "local_steps", "batch_size", "progress_start", "progress_end", "schedule", "momentum", "weight_decay", "nesterov", "augment", "dtype", "label_smoothing", "last_round", "proximal_mu", "control_variates", "personal_lambda", "evaluate", "start_loss", "fragments", "fragment", "fresh", "overlap_steps", "mix")
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_BATCH_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_START_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_END_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    NESTEROV_FIELD_NUMBER: _ClassVar[int]
    AUGMENT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_MU_FIELD_NUMBER: _ClassVar[int]
    CONTROL_VARIATES_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    START_LOSS_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_STEPS_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    work_id: str
    round: int
    step: int
    version: int
    shard: int
    seed: int
    exchange: str
    first_batch: int
    local_steps: int
    batch_size: int
    progress_start: float
    progress_end: float
    schedule: Schedule
    momentum: float
    weight_decay: float
    nesterov: bool
    augment: str
    dtype: str
    label_smoothing: float
    last_round: int
    proximal_mu: float
    control_variates: bool
    personal_lambda: float
    evaluate: bool
    start_loss: bool
    fragments: int
    fragment: int
    fresh: int
    overlap_steps: int
    mix: float
    def __init__(self, work_id: _Optional[str] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., shard: _Optional[int] = ..., seed: _Optional[int] = ..., exchange: _Optional[str] = ..., first_batch: _Optional[int] = ..., local_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., progress_start: _Optional[float] = ..., progress_end: _Optional[float] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., momentum: _Optional[float] = ..., weight_decay: _Optional[float] = ..., nesterov: _Optional[bool] = ..., augment: _Optional[str] = ..., dtype: _Optional[str] = ..., label_smoothing: _Optional[float] = ..., last_round: _Optional[int] = ..., proximal_mu: _Optional[float] = ..., control_variates: _Optional[bool] = ..., personal_lambda: _Optional[float] = ..., evaluate: _Optional[bool] = ..., start_loss: _Optional[bool] = ..., fragments: _Optional[int] = ..., fragment: _Optional[int] = ..., fresh: _Optional[int] = ..., overlap_steps: _Optional[int] = ..., mix: _Optional[float] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("kind", "lr", "warmup")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FIELD_NUMBER: _ClassVar[int]
    kind: str
    lr: float
    warmup: float
    def __init__(self, kind: _Optional[str] = ..., lr: _Optional[float] = ..., warmup: _Optional[float] = ...) -> None: ...

class LearnerMessage(_message.Message):
    __slots__ = ("hello", "heartbeat", "progress", "failure", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    progress: Progress
    failure: Failure
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Progress(_message.Message):
    __slots__ = ("work_id", "done", "total", "images_per_s")
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_S_FIELD_NUMBER: _ClassVar[int]
    work_id: str
    done: int
    total: int
    images_per_s: float
    def __init__(self, work_id: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., images_per_s: _Optional[float] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("work_id", "message")
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    work_id: str
    message: str
    def __init__(self, work_id: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class LeaderMessage(_message.Message):
    __slots__ = ("work", "committed", "stop")
    WORK_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    work: WorkOrder
    committed: Committed
    stop: Stop
    def __init__(self, work: _Optional[_Union[WorkOrder, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("round", "audit_number", "audit_head")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    AUDIT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    round: int
    audit_number: int
    audit_head: bytes
    def __init__(self, round: _Optional[int] = ..., audit_number: _Optional[int] = ..., audit_head: _Optional[bytes] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "finished")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    finished: bool
    def __init__(self, reason: _Optional[str] = ..., finished: _Optional[bool] = ...) -> None: ...
