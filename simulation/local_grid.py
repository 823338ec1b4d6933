"""Flower's Grid within one process: each message runs the real ClientApp on a thread of its own."""

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_NODE = 2
_POLL_SECONDS = 0.01


class LocalGrid(Grid):
    """Nodes that are threads; a message to a node calls its ClientApp at once.

    Args:
        apps: ClientApp of each site, by name.
    """

    def __init__(self, apps: Mapping[str, ClientApp]) -> None:
        self._nodes = dict(enumerate(apps.items(), start=_FIRST_NODE))
        self._run = Run.create_empty(_RUN_ID)
        self._pool = ThreadPoolExecutor(max_workers=2 * len(apps), thread_name_prefix="node")
        self._replies: dict[str, Future[Message]] = {}
        self._lock = threading.Lock()
        # Flower's Message constructor asks whose task this process is.
        TaskIdentity.task_id = TaskIdentity.run_id = _RUN_ID
        TaskIdentity.node_id = _SERVER_NODE

    @property
    def names(self) -> Mapping[int, str]:
        """Each node's site."""
        return {node: name for node, (name, _) in self._nodes.items()}

    def set_run(self, run: Run) -> None:
        """See `Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See `Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid`."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid`."""
        identifiers = []
        for message in messages:
            identifier = message.object_id
            message.metadata.__dict__["_message_id"] = identifier
            with self._lock:
                self._replies[identifier] = self._pool.submit(self._deliver, message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid`; a ClientApp's exception is raised here, since a simulation has no other log."""
        with self._lock:
            done = [i for i in message_ids if i in self._replies and self._replies[i].done()]
            return [self._replies.pop(i).result() for i in done]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """See `Grid`."""
        waiting = set(self.push_messages(messages))
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            arrived = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
            if not arrived:
                time.sleep(_POLL_SECONDS)
        return replies

    def close(self) -> None:
        """Waits until every node has answered."""
        self._pool.shutdown(wait=True)

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        site, app = self._nodes[node]
        context = Context(
            run_id=_RUN_ID,
            node_id=node,
            node_config={"site": site},
            state=RecordDict(),
            run_config={},
        )
        return app(message, context)
