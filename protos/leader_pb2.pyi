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
    __slots__ = ("network_addr", "protocol", "release", "name", "token", "device", "control", "own_data", "tags", "device_kind", "memory_bytes", "codecs", "secagg", "example_privacy", "frozen", "inline_bytes")
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
    SECAGG_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_PRIVACY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_FIELD_NUMBER: _ClassVar[int]
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
    secagg: int
    example_privacy: int
    frozen: str
    inline_bytes: int
    def __init__(self, network_addr: _Optional[str] = ..., protocol: _Optional[int] = ..., release: _Optional[str] = ..., name: _Optional[str] = ..., token: _Optional[bytes] = ..., device: _Optional[str] = ..., control: _Optional[_Union[Control, str]] = ..., own_data: _Optional[_Union[OwnData, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., device_kind: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ..., secagg: _Optional[int] = ..., example_privacy: _Optional[int] = ..., frozen: _Optional[str] = ..., inline_bytes: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("run_id", "model", "norm", "classes", "heartbeat_s", "chunk_bytes", "local", "holdout", "own_task", "codec_up", "codec_down", "piece_bytes", "pipelined", "zstd", "dp", "cut_tensors")
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
    DP_FIELD_NUMBER: _ClassVar[int]
    CUT_TENSORS_FIELD_NUMBER: _ClassVar[int]
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
    dp: DpPromise
    cut_tensors: bool
    def __init__(self, run_id: _Optional[str] = ..., model: _Optional[str] = ..., norm: _Optional[str] = ..., classes: _Optional[int] = ..., heartbeat_s: _Optional[float] = ..., chunk_bytes: _Optional[int] = ..., local: _Optional[_Iterable[str]] = ..., holdout: _Optional[float] = ..., own_task: _Optional[bool] = ..., codec_up: _Optional[str] = ..., codec_down: _Optional[str] = ..., piece_bytes: _Optional[int] = ..., pipelined: _Optional[bool] = ..., zstd: _Optional[bool] = ..., dp: _Optional[_Union[DpPromise, _Mapping]] = ..., cut_tensors: _Optional[bool] = ...) -> None: ...

class DpPromise(_message.Message):
    __slots__ = ("mode", "epsilon", "delta")
    MODE_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    mode: str
    epsilon: float
    delta: float
    def __init__(self, mode: _Optional[str] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("success", "message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ("token", "version", "have", "ticket")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    version: int
    have: int
    ticket: bytes
    def __init__(self, token: _Optional[bytes] = ..., version: _Optional[int] = ..., have: _Optional[int] = ..., ticket: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("token", "work_id", "examples", "total_bytes", "crc32", "loss", "seconds", "offset", "metrics", "start_loss", "session", "ticket")
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
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
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
    session: bytes
    ticket: bytes
    def __init__(self, token: _Optional[bytes] = ..., work_id: _Optional[str] = ..., examples: _Optional[int] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., loss: _Optional[float] = ..., seconds: _Optional[float] = ..., offset: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., start_loss: _Optional[float] = ..., session: _Optional[bytes] = ..., ticket: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("token", "work_id", "total_bytes", "crc32", "ticket")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    work_id: str
    total_bytes: int
    crc32: int
    ticket: bytes
    def __init__(self, token: _Optional[bytes] = ..., work_id: _Optional[str] = ..., total_bytes: _Optional[int] = ..., crc32: _Optional[int] = ..., ticket: _Optional[bytes] = ...) -> None: ...

class UploadStatus(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class WorkRequest(_message.Message):
    __slots__ = ("token", "wait_s")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    wait_s: float
    def __init__(self, token: _Optional[bytes] = ..., wait_s: _Optional[float] = ...) -> None: ...

class WorkOrders(_message.Message):
    __slots__ = ("orders", "over")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[WorkOrder]
    over: bool
    def __init__(self, orders: _Optional[_Iterable[_Union[WorkOrder, _Mapping]]] = ..., over: _Optional[bool] = ...) -> None: ...

class WorkOrder(_message.Message):
    __slots__ = ("work_id", "round", "step", "version", "shard", "seed", "exchange", "first_batch", "local_steps", "batch_size", "progress_start", "progress_end", "schedule", "momentum", "weight_decay", "nesterov", "augment", "dtype", "label_smoothing", "last_round", "proximal_mu", "control_variates", "personal_lambda", "evaluate", "start_loss", "fragments", "fragment", "fresh", "overlap_steps", "mix", "masking", "noise", "examples", "counted_round", "via")
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
    MASKING_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    COUNTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
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
    masking: MaskPlan
    noise: NoisePlan
    examples: ExamplePlan
    counted_round: int
    via: Via
    def __init__(self, work_id: _Optional[str] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., version: _Optional[int] = ..., shard: _Optional[int] = ..., seed: _Optional[int] = ..., exchange: _Optional[str] = ..., first_batch: _Optional[int] = ..., local_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., progress_start: _Optional[float] = ..., progress_end: _Optional[float] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., momentum: _Optional[float] = ..., weight_decay: _Optional[float] = ..., nesterov: _Optional[bool] = ..., augment: _Optional[str] = ..., dtype: _Optional[str] = ..., label_smoothing: _Optional[float] = ..., last_round: _Optional[int] = ..., proximal_mu: _Optional[float] = ..., control_variates: _Optional[bool] = ..., personal_lambda: _Optional[float] = ..., evaluate: _Optional[bool] = ..., start_loss: _Optional[bool] = ..., fragments: _Optional[int] = ..., fragment: _Optional[int] = ..., fresh: _Optional[int] = ..., overlap_steps: _Optional[int] = ..., mix: _Optional[float] = ..., masking: _Optional[_Union[MaskPlan, _Mapping]] = ..., noise: _Optional[_Union[NoisePlan, _Mapping]] = ..., examples: _Optional[_Union[ExamplePlan, _Mapping]] = ..., counted_round: _Optional[int] = ..., via: _Optional[_Union[Via, _Mapping]] = ...) -> None: ...

class Via(_message.Message):
    __slots__ = ("ticket", "edges", "urls")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    edges: _containers.RepeatedScalarFieldContainer[str]
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ticket: _Optional[bytes] = ..., edges: _Optional[_Iterable[str]] = ..., urls: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("hello", "heartbeat", "progress", "failure", "goodbye", "mask")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    progress: Progress
    failure: Failure
    goodbye: Goodbye
    mask: MaskUp
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., mask: _Optional[_Union[MaskUp, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("work", "committed", "stop", "mask", "model")
    WORK_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    work: WorkOrder
    committed: Committed
    stop: Stop
    mask: MaskDown
    model: bytes
    def __init__(self, work: _Optional[_Union[WorkOrder, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., mask: _Optional[_Union[MaskDown, _Mapping]] = ..., model: _Optional[bytes] = ...) -> None: ...

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

class MaskPlan(_message.Message):
    __slots__ = ("bits", "parties", "threshold", "least", "range", "weight_bound", "signed", "attempt", "neighbours", "neighbour_threshold", "fraction_bits", "epochs", "metrics")
    BITS_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BOUND_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FRACTION_BITS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    bits: int
    parties: int
    threshold: int
    least: int
    range: float
    weight_bound: int
    signed: bool
    attempt: int
    neighbours: int
    neighbour_threshold: int
    fraction_bits: int
    epochs: int
    metrics: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bits: _Optional[int] = ..., parties: _Optional[int] = ..., threshold: _Optional[int] = ..., least: _Optional[int] = ..., range: _Optional[float] = ..., weight_bound: _Optional[int] = ..., signed: _Optional[bool] = ..., attempt: _Optional[int] = ..., neighbours: _Optional[int] = ..., neighbour_threshold: _Optional[int] = ..., fraction_bits: _Optional[int] = ..., epochs: _Optional[int] = ..., metrics: _Optional[_Iterable[str]] = ...) -> None: ...

class NoisePlan(_message.Message):
    __slots__ = ("clip", "reach", "spread", "bit_levels")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    BIT_LEVELS_FIELD_NUMBER: _ClassVar[int]
    clip: float
    reach: int
    spread: _containers.RepeatedScalarFieldContainer[int]
    bit_levels: int
    def __init__(self, clip: _Optional[float] = ..., reach: _Optional[int] = ..., spread: _Optional[_Iterable[int]] = ..., bit_levels: _Optional[int] = ...) -> None: ...

class ExamplePlan(_message.Message):
    __slots__ = ("clip", "noise_multiplier", "epsilon", "delta", "rounds")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    clip: float
    noise_multiplier: float
    epsilon: float
    delta: float
    rounds: int
    def __init__(self, clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., rounds: _Optional[int] = ...) -> None: ...

class MaskUp(_message.Message):
    __slots__ = ("session", "advert", "shares", "agreed", "revealed", "refused")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ADVERT_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    REVEALED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    advert: Advert
    shares: Shares
    agreed: Agreed
    revealed: Revealed
    refused: MaskRefused
    def __init__(self, session: _Optional[bytes] = ..., advert: _Optional[_Union[Advert, _Mapping]] = ..., shares: _Optional[_Union[Shares, _Mapping]] = ..., agreed: _Optional[_Union[Agreed, _Mapping]] = ..., revealed: _Optional[_Union[Revealed, _Mapping]] = ..., refused: _Optional[_Union[MaskRefused, _Mapping]] = ...) -> None: ...

class MaskDown(_message.Message):
    __slots__ = ("session", "open", "roster", "shares", "survivors", "reveal", "over")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    open: MaskOpen
    roster: Roster
    shares: Shares
    survivors: Survivors
    reveal: Reveal
    over: MaskOver
    def __init__(self, session: _Optional[bytes] = ..., open: _Optional[_Union[MaskOpen, _Mapping]] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., shares: _Optional[_Union[Shares, _Mapping]] = ..., survivors: _Optional[_Union[Survivors, _Mapping]] = ..., reveal: _Optional[_Union[Reveal, _Mapping]] = ..., over: _Optional[_Union[MaskOver, _Mapping]] = ...) -> None: ...

class MaskOpen(_message.Message):
    __slots__ = ("work_id",)
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    work_id: str
    def __init__(self, work_id: _Optional[str] = ...) -> None: ...

class Advert(_message.Message):
    __slots__ = ("share_key", "mask_key", "self_hash", "identity", "signature")
    SHARE_KEY_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    SELF_HASH_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    share_key: bytes
    mask_key: bytes
    self_hash: bytes
    identity: bytes
    signature: bytes
    def __init__(self, share_key: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ..., self_hash: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Seat(_message.Message):
    __slots__ = ("name", "advert")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADVERT_FIELD_NUMBER: _ClassVar[int]
    name: str
    advert: Advert
    def __init__(self, name: _Optional[str] = ..., advert: _Optional[_Union[Advert, _Mapping]] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("seats", "you")
    SEATS_FIELD_NUMBER: _ClassVar[int]
    YOU_FIELD_NUMBER: _ClassVar[int]
    seats: _containers.RepeatedCompositeFieldContainer[Seat]
    you: int
    def __init__(self, seats: _Optional[_Iterable[_Union[Seat, _Mapping]]] = ..., you: _Optional[int] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("seat", "sealed")
    SEAT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    seat: int
    sealed: bytes
    def __init__(self, seat: _Optional[int] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class Shares(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("in_sum", "masked_with")
    IN_SUM_FIELD_NUMBER: _ClassVar[int]
    MASKED_WITH_FIELD_NUMBER: _ClassVar[int]
    in_sum: bytes
    masked_with: bytes
    def __init__(self, in_sum: _Optional[bytes] = ..., masked_with: _Optional[bytes] = ...) -> None: ...

class Agreed(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class Reveal(_message.Message):
    __slots__ = ("survivors", "signatures")
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    survivors: Survivors
    signatures: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, survivors: _Optional[_Union[Survivors, _Mapping]] = ..., signatures: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class MaskRefused(_message.Message):
    __slots__ = ("reason", "unopened")
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNOPENED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    unopened: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, reason: _Optional[str] = ..., unopened: _Optional[_Iterable[int]] = ...) -> None: ...

class Revealed(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: bytes
    def __init__(self, shares: _Optional[bytes] = ...) -> None: ...

class MaskOver(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
