"""The Flower ClientApp: passes the server's questions to the site agent, and its answers back.

Flower runs this in a process of its own for every message. It holds nothing: no data, no key. The
SuperNode of `hortus client` runs this app whatever app the server ships (pinned_clientapp.py).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import grpc
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.runtime.faults import Fault, reach


class Agent(Protocol):
    """The two questions of aggregation.proto's Agent service."""

    def consider(self, request: wire.ConsiderRequest) -> wire.ConsiderReply:
        """Would this site take part in a contract?"""
        ...

    def take_part(self, request: wire.TakePartRequest) -> wire.TakePartReply:
        """Take part in this session."""
        ...


def relay_app(find: Callable[[Context], AbstractContextManager[Agent]]) -> ClientApp:
    """Makes the ClientApp; `find` finds the node's agent."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        request = message.content.config_records["request"]
        with find(context) as agent:
            reach(Fault.RELAY_BEFORE_QUERY)
            reply = agent.consider(
                wire.ConsiderRequest(
                    protocol=_version(request),
                    contract=_bytes(request, "contract"),
                    signature=_bytes(request, "signature"),
                    challenge=_bytes(request, "challenge"),
                )
            )
        reach(Fault.RELAY_AFTER_QUERY)
        answer = ConfigRecord(
            {
                "site": reply.site,
                "refusal": reply.refusal,
                "again": reply.again,
                "signature": reply.signature,
            }
        )
        return Message(RecordDict({"answer": answer}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        request = message.content.config_records["request"]
        with find(context) as agent:
            reach(Fault.RELAY_BEFORE_TRAIN)
            reply = agent.take_part(
                wire.TakePartRequest(
                    protocol=_version(request),
                    contract=_bytes(request, "contract"),
                    descriptor=_bytes(request, "descriptor"),
                    signature=_bytes(request, "signature"),
                )
            )
        reach(Fault.RELAY_AFTER_TRAIN)
        answer = ConfigRecord({"steps": reply.steps, "reason": reply.reason})
        return Message(RecordDict({"answer": answer}), reply_to=message)

    return app


class _SocketAgent:
    """The agent behind the site's local socket."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.AgentStub(channel)  # type: ignore[no-untyped-call]

    def consider(self, request: wire.ConsiderRequest) -> wire.ConsiderReply:
        reply: wire.ConsiderReply = self._stub.Consider(request)
        return reply

    def take_part(self, request: wire.TakePartRequest) -> wire.TakePartReply:
        reply: wire.TakePartReply = self._stub.TakePart(request)
        return reply


@contextmanager
def _over_socket(context: Context) -> Iterator[Agent]:
    with grpc.insecure_channel(f"unix:{context.node_config['agent-socket']}") as channel:
        yield _SocketAgent(channel)


def _bytes(record: ConfigRecord, name: str) -> bytes:
    value = record[name]
    if not isinstance(value, bytes):
        raise TypeError(f"the server's {name} is not bytes")
    return value


def _version(record: ConfigRecord) -> int:
    """What the server says that it speaks; 0 when it says nothing, which no agent accepts."""
    told = record.get("protocol", 0)
    return told if isinstance(told, int) and 0 <= told < 2**32 else 0


app = relay_app(_over_socket)
