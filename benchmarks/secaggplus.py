"""Flower 1.41's SecAgg+ workflow and mod, as they are, between nodes that are threads.

Messages are serialised and parsed as Flower does on its way, but travel by plain calls: no TLS, no
polling, no processes. So the time is less than a Flower deployment takes.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1


class FlowerRound:
    """One SecAgg+ sum of so many float32 vectors; all clients are each other's neighbours.

    Args:
        clients: How many.
        parameters: Length of a vector.
    """

    def __init__(self, clients: int, parameters: int) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN_ID
        self._nodes = list(range(2, 2 + clients))
        self._vector = np.full(parameters, 0.5, np.float32)
        self._contexts: dict[int, Context] = {}
        self._pool = ThreadPoolExecutor(clients)
        self._lock = threading.Lock()
        self._number = 0
        self.bytes_up = self.bytes_down = 0

    def run(self) -> None:
        """Makes a round; `bytes_up` and `bytes_down` are then those of all clients."""
        self.bytes_up = self.bytes_down = 0
        self._contexts = {node: self._context(node) for node in self._nodes}
        context = LegacyContext(self._context(0), strategy=self)  # type: ignore[arg-type]
        parameters = ndarrays_to_parameters([self._vector])
        context.state.array_records[MAIN_PARAMS_RECORD] = (
            recorddict_compat.parameters_to_arrayrecord(parameters, keep_input=True)
        )
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
        workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.5, max_weight=1)
        workflow(self, context)  # type: ignore[arg-type]
        (mean,) = parameters_to_ndarrays(self.mean)
        assert np.allclose(mean, self._vector, atol=1e-4)

    # What the workflow asks of a strategy and a client manager.

    def configure_fit(self, *_: object) -> list[tuple[SimpleNamespace, FitIns]]:
        instructions = FitIns(ndarrays_to_parameters([self._vector]), {})
        return [(SimpleNamespace(node_id=node), instructions) for node in self._nodes]

    def aggregate_fit(self, _: int, results: list[Any], failures: list[Any]) -> object:
        assert not failures
        self.mean = results[0][1].parameters
        return self.mean, {}

    # What it asks of a grid.

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        del timeout
        return list(self._pool.map(self._deliver, messages))

    def _deliver(self, message: Message) -> Message:
        raw = recorddict_to_proto(message.content).SerializeToString()
        node = message.metadata.dst_node_id
        with self._lock:
            self._number += 1
            message.metadata.__dict__["_message_id"] = str(self._number)
        arrived = self._parsed(raw, message)
        reply = secaggplus_mod(arrived, self._contexts[node], self._fit)
        back = recorddict_to_proto(reply.content).SerializeToString()
        with self._lock:
            self.bytes_down += len(raw)
            self.bytes_up += len(back)
        reply.content = recorddict_from_proto(ProtoRecordDict.FromString(back))
        reply.metadata.__dict__["_src_node_id"] = node
        return reply

    def _parsed(self, raw: bytes, message: Message) -> Message:
        message.content = recorddict_from_proto(ProtoRecordDict.FromString(raw))
        return message

    def _fit(self, message: Message, _: Context) -> Message:
        result = FitRes(
            Status(Code.OK, ""), ndarrays_to_parameters([self._vector]), num_examples=1, metrics={}
        )
        content = recorddict_compat.fitres_to_recorddict(result, keep_input=False)
        return Message(content, reply_to=message)

    @staticmethod
    def _context(node: int) -> Context:
        return Context(
            run_id=_RUN_ID, node_id=node, node_config={}, state=RecordDict(), run_config={}
        )
