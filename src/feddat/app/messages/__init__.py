"""What travels between server and clients: the one place that knows what a message holds.

| message | server to client | client to server |
| --- | --- | --- |
| query | the run's id | the client's name and members, the round of its newest state, parameters, examples |
| train | global adapter, extra arrays; round, rounds, run, model, ledger | the same arrays; examples; steps, losses |
| evaluate | global adapter, other extra arrays; the same; split, final | examples; one score per route |

Both sides state their version (:mod:`feddat.app.versions`), and an instruction must have every key. The ledger is the
last round for which the server has this client's training.

Nothing else leaves a client: no data, no head, no local adapter. Methods that do not communicate send no arrays.
A client can keep back its losses and scores (``share_metrics: counts``), and also its numbers of examples and of
parameters (``none``).

Only the entries of the global adapter that the algorithm shares travel. They are packed as ``wire`` says
(:mod:`feddat.app.wire`): an instruction names the format, and the client answers in it. Extra arrays (control variates,
for example) belong to the algorithm and are always fp32. They share the adapter's ArrayRecord, under a prefix, because
Flower wants one ArrayRecord per message.

Everything that arrives is checked before it is used; what does not fit raises a :class:`ReplyError`. Metrics have
names from a list and values within bounds, :mod:`feddat.app.arrays` reads arrays, and texts become one line
(:mod:`feddat.one_line`).
"""

from feddat.app.messages.instructions import (
    INSTRUCTED,
    Instruction,
    addressed,
    check_instructed,
    check_versions,
    hash_of,
    instruction_config,
    instruction_content,
    query_content,
    read_instruction,
    read_run,
)
from feddat.app.messages.reading import COSTS, TOLD, read_evaluate_reply, read_name, read_train_reply
from feddat.app.messages.records import (
    CONFIG,
    DELTA,
    EXAMPLES,
    EXTRA,
    FORMAT,
    KEPT,
    LEDGER,
    METRICS,
    ROUND,
    SHARED,
    InstructionError,
    ReplyError,
    checking,
    is_of_gone_node,
    records_of,
)
from feddat.app.messages.replies import (
    EvaluateReply,
    Member,
    MetricValues,
    TrainReply,
    evaluate_reply,
    name_reply,
    train_reply,
)
from feddat.app.messages.tensors import as_tensor, most_bytes, to_array, to_arrays, to_tensors, wire_size

__all__ = [
    "CONFIG",
    "COSTS",
    "DELTA",
    "EXAMPLES",
    "EXTRA",
    "FORMAT",
    "INSTRUCTED",
    "KEPT",
    "LEDGER",
    "METRICS",
    "ROUND",
    "SHARED",
    "TOLD",
    "EvaluateReply",
    "Instruction",
    "InstructionError",
    "Member",
    "MetricValues",
    "ReplyError",
    "TrainReply",
    "addressed",
    "as_tensor",
    "check_instructed",
    "check_versions",
    "checking",
    "evaluate_reply",
    "hash_of",
    "instruction_config",
    "instruction_content",
    "is_of_gone_node",
    "most_bytes",
    "name_reply",
    "query_content",
    "read_evaluate_reply",
    "read_instruction",
    "read_name",
    "read_run",
    "read_train_reply",
    "records_of",
    "to_array",
    "to_arrays",
    "to_tensors",
    "train_reply",
    "wire_size",
]
